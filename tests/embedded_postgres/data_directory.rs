//! Which process may use a data directory, as which user, and where the socket is.
use super::*;

#[tokio::test]
async fn second_start_on_the_same_data_is_refused_and_disturbs_nothing() {
    let data = Data::new();
    let postgres = data.start().await;
    let client = connect(postgres.url()).await;
    let session = "SELECT pg_backend_pid()";
    let before: i32 = client.query_one(session, &[]).await.unwrap().get(0);
    let error = data.error().await;
    assert!(matches!(error, Error::DataDirInUse { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
    let other = EmbeddedProcess::start(data.dir()).started().unwrap_err();
    assert!(other.contains(&format!("in use by another headwater (process {})", std::process::id())), "{other}");
    assert_eq!(client.query_one(session, &[]).await.unwrap().get::<_, i32>(0), before);
    postgres.stop().await;
}

#[tokio::test]
async fn running_url_tells_where_another_process_has_its_server() {
    let data = Data::new();
    assert_eq!(EmbeddedPostgres::running_url(&data.settings).await.unwrap(), None);
    let mut service = EmbeddedProcess::start(data.dir());
    let url = service.started().unwrap();
    assert_eq!(EmbeddedPostgres::running_url(&data.settings).await.unwrap(), Some(url));
    service.stop();
    assert_eq!(EmbeddedPostgres::running_url(&data.settings).await.unwrap(), None);
}

#[tokio::test]
async fn too_long_a_path_moves_the_socket_to_a_private_directory() {
    let mut data = Data::new();
    let long = data.parent.path().join("d".repeat(120)).join("data, with \"odd\" name");
    data.settings.data_dir = Some(long);
    let postgres = data.start().await;
    assert_eq!(EmbeddedPostgres::running_url(&data.settings).await.unwrap().as_deref(), Some(postgres.url()));
    let socket_dir = PathBuf::from(setting(postgres.url(), "unix_socket_directories").await.replace('"', ""));
    let metadata = fs::symlink_metadata(&socket_dir).unwrap();
    assert!(metadata.is_dir() && metadata.mode() & 0o777 == 0o700);
    assert_eq!(metadata.uid(), status_of(data.postmaster().unwrap(), "Uid"));
    postgres.stop().await;
    // One that others can enter is not used.
    fs::set_permissions(&socket_dir, Permissions::from_mode(0o755)).unwrap();
    let error = data.error().await;
    assert!(matches!(error, Error::SocketDirNotPrivate { .. }), "{error}");
    fs::remove_dir(&socket_dir).unwrap();
}

#[tokio::test]
async fn root_runs_postgres_as_the_owner_of_the_data_directory() {
    if !is_root() {
        return;
    }
    let data = Data::new();
    fs::create_dir(data.dir()).unwrap();
    chown(data.dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    let postgres = data.start().await;
    assert_eq!(status_of(data.postmaster().unwrap(), "Uid"), NOBODY);
    postgres.stop().await;
}

#[tokio::test]
async fn ordinary_user_runs_postgres_as_itself() {
    if !is_root() {
        return;
    }
    let data = Data::new();
    chown(data.parent.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut service = EmbeddedProcess::start_as(NOBODY, NOBODY, data.parent.path(), data.dir());
    service.started().unwrap();
    let pid = data.postmaster().unwrap();
    assert_eq!((status_of(pid, "Uid"), status_of(pid, "PPid")), (NOBODY, service.id()));
    service.stop();
    assert!(data.is_shut_down_cleanly());
}

#[tokio::test]
async fn directory_that_postgres_cannot_enter_is_named() {
    if !is_root() {
        return;
    }
    let data = Data::new();
    fs::set_permissions(data.parent.path(), Permissions::from_mode(0o700)).unwrap();
    let closed = data.parent.path().canonicalize().unwrap();
    let error = data.error().await;
    assert!(matches!(&error, Error::UnreachableForAccount { path, .. } if *path == closed), "{error}");
    // And nothing was left that would be in the way once it is open.
    fs::set_permissions(data.parent.path(), Permissions::from_mode(0o755)).unwrap();
    data.start().await.stop().await;
}
