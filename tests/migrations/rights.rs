//! Installing without a superuser's rights, as on a managed database.
use super::migrate_to;
use crate::conformance::{Session, unique};
use crate::support::database::TestDatabase;
use headwater::store::migrate::{Change, MigrateOptions, MigrationReport, Notice, Schema, run_schema};

/// A database, an administrator's session, and a user who may create schemas in it and nothing else.
struct Managed {
    database: TestDatabase,
    administrator: Session,
    user: String,
}

impl Managed {
    async fn open() -> Self {
        let database = TestDatabase::empty().await;
        let administrator = Session::open_plain(&database.url).await;
        let name = administrator.value("SELECT current_database()").await;
        let user = unique("plain");
        administrator.run(&format!("CREATE ROLE {user}; GRANT CREATE ON DATABASE {name} TO {user}")).await;
        Self { database, administrator, user }
    }

    async fn migrate(&self, schema: &Schema) -> MigrationReport {
        // As a setting of the connection: the server may not let the user log in.
        let separator = if self.database.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}options=-c%20role%3D{}", self.database.url, self.user);
        run_schema(&url, &MigrateOptions::default(), schema).await.expect("the database is migrated")
    }

    /// Roles belong to the server, not to the database that goes with the test.
    async fn drop_roles(self, roles: &[&str]) {
        for role in roles.iter().copied().chain([self.user.as_str()]) {
            self.administrator.run(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
        }
    }
}

fn with_role(role: &str) -> Schema {
    Schema { role: role.to_owned().into(), ..Schema::embedded() }
}

fn refused(report: &MigrationReport) -> bool {
    report.notices.iter().any(|notice| matches!(notice, Notice::RoleRefused { .. }))
}

#[tokio::test]
async fn a_user_who_may_only_create_in_the_database_can_install_and_use_it() {
    let managed = Managed::open().await;
    let role = unique("absent");
    managed.migrate(&with_role(&role)).await;

    let session = Session::open(&managed.database.url).await;
    session.run(&format!("SET ROLE {}", managed.user)).await;
    assert_eq!(session.write("account-1").await, "0");
    assert_eq!(session.column("SELECT position FROM get_category_messages('account')").await, ["0"]);
    let owner = "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace IN ('message_store'::regnamespace, 'headwater'::regnamespace)";
    assert_eq!(session.column(owner).await, std::slice::from_ref(&managed.user));
    drop(session);
    managed.drop_roles(&[]).await;
}

#[tokio::test]
async fn a_role_that_may_not_be_created_is_said_and_all_else_is_done() {
    let managed = Managed::open().await;
    let role = unique("absent");
    let report = managed.migrate(&with_role(&role)).await;

    let expected = Notice::RoleRefused { role: role.clone(), reason: "permission denied to create role".to_owned() };
    assert_eq!(report.notices, [expected]);
    assert!(report.changes.iter().any(|change| matches!(change, Change::FunctionsInstalled { .. })), "{report}");
    assert!(!report.changes.iter().any(|change| matches!(change, Change::RoleGranted { .. })), "{report}");
    assert!(report.to_string().contains(&format!("note: role {role} was refused")), "{report}");
    managed.drop_roles(&[]).await;
}

#[tokio::test]
async fn a_role_that_an_administrator_creates_later_gets_its_rights_at_the_next_start() {
    let managed = Managed::open().await;
    let role = unique("later");
    assert!(refused(&managed.migrate(&with_role(&role)).await));

    let again = managed.migrate(&with_role(&role)).await;
    assert!(again.is_up_to_date() && refused(&again), "not asked for at every start: {again}");

    managed.administrator.run(&format!("CREATE ROLE {role} LOGIN")).await;
    let report = managed.migrate(&with_role(&role)).await;
    assert_eq!(report.changes, [Change::RoleGranted { role: role.clone() }]);
    assert_eq!(report.notices, []);
    let granted = format!("SELECT has_table_privilege('{role}', 'message_store.messages', 'INSERT')");
    assert_eq!(managed.administrator.value(&granted).await, "t");
    assert!(managed.migrate(&with_role(&role)).await.is_up_to_date());
    managed.drop_roles(&[&role]).await;
}

#[tokio::test]
async fn a_role_is_created_where_that_is_allowed() {
    let database = TestDatabase::empty().await;
    let role = unique("created");
    let report = migrate_to(&database, &with_role(&role)).await.unwrap();
    assert!(report.changes.contains(&Change::RoleCreated { role: role.clone() }), "{report}");
    assert!(report.changes.contains(&Change::RoleGranted { role: role.clone() }), "{report}");

    let session = Session::open_plain(&database.url).await;
    let attributes = format!("SELECT rolcanlogin::text || rolsuper::text FROM pg_roles WHERE rolname = '{role}'");
    assert_eq!(session.value(&attributes).await, "truefalse");
    session.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn rights_that_an_administrator_takes_away_stay_away() {
    let database = TestDatabase::empty().await;
    let role = unique("revoked");
    migrate_to(&database, &with_role(&role)).await.unwrap();
    let session = Session::open_plain(&database.url).await;
    session.run(&format!("REVOKE INSERT ON message_store.messages FROM {role}")).await;

    let mut newer = with_role(&role);
    newer.functions_version += 1;
    migrate_to(&database, &newer).await.unwrap();
    let granted = format!("SELECT has_table_privilege('{role}', 'message_store.messages', 'INSERT')");
    assert_eq!(session.value(&granted).await, "f");
    session.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn no_extension_is_needed() {
    let database = TestDatabase::migrated().await;
    let session = Session::open_plain(&database.url).await;
    assert_eq!(session.column("SELECT extname FROM pg_extension").await, ["plpgsql"]);
}
