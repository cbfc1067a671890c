//! category, is_category, id, cardinal_id, hash_64.
use super::Store;

/// Each case: an argument as SQL, and what the function makes of it.
async fn assert_results(function: &str, cases: &[(&str, &str)]) {
    let store = Store::open().await;
    for (argument, expected) in cases {
        let sql = format!("SELECT {function}({argument})");
        assert_eq!(store.value(&sql).await, *expected, "{sql}");
    }
}

#[tokio::test]
async fn category_is_the_text_before_the_first_dash_or_all_of_it() {
    let cases = [
        ("'account-123'", "account"),
        ("'a-b-c'", "a"),
        ("'account'", "account"),
        ("'account-'", "account"),
        ("''", ""),
        ("'-123'", ""),
        ("NULL", "NULL"),
    ];
    assert_results("category", &cases).await;
}

#[tokio::test]
async fn category_keeps_colons_and_pluses() {
    let cases = [
        ("'account:command-123'", "account:command"),
        ("'account:command+x-1'", "account:command+x"),
        ("'x+y'", "x+y"),
    ];
    assert_results("category", &cases).await;
}

#[tokio::test]
async fn is_category_is_true_without_a_dash() {
    let cases = [
        ("'account'", "t"),
        ("'account:command+x'", "t"),
        ("''", "t"),
        ("NULL", "t"),
        ("'account-123'", "f"),
        ("'account-'", "f"),
        ("'-123'", "f"),
        ("'a-b-c'", "f"),
    ];
    assert_results("is_category", &cases).await;
}

#[tokio::test]
async fn id_is_the_text_after_the_first_dash() {
    let cases = [
        ("'account-123'", "123"),
        ("'a-b-c'", "b-c"),
        ("'x-+4'", "+4"),
        ("'x-1+2'", "1+2"),
        ("'account-'", ""),
        ("'-123'", "123"),
        ("'-'", ""),
    ];
    assert_results("id", &cases).await;
}

#[tokio::test]
async fn id_is_null_without_a_dash() {
    assert_results("id", &[("'account'", "NULL"), ("'a+b'", "NULL"), ("''", "NULL"), ("NULL", "NULL")]).await;
}

#[tokio::test]
async fn cardinal_id_is_the_id_up_to_its_first_plus() {
    let cases = [
        ("'x-1+2'", "1"),
        ("'x-1+2+3'", "1"),
        ("'x-123'", "123"),
        ("'x-+4'", ""),
        ("'a-b-c'", "b-c"),
        ("'a+b-c+d'", "c"),
        ("'account-'", ""),
    ];
    assert_results("cardinal_id", &cases).await;
}

#[tokio::test]
async fn cardinal_id_is_null_without_an_id() {
    assert_results("cardinal_id", &[("'account'", "NULL"), ("'a+b'", "NULL"), ("''", "NULL"), ("NULL", "NULL")]).await;
}

#[tokio::test]
async fn hash_64_is_the_first_8_bytes_of_md5_signed() {
    let cases = [
        ("'account'", "-2132379389342958165"),
        ("''", "-3162216497309240828"),
        // md5 of 'a' begins with 0cc175b9c0f1b6a8: positive.
        ("'a'", "919145239626757800"),
        ("NULL", "NULL"),
    ];
    assert_results("hash_64", &cases).await;
}

#[tokio::test]
async fn names_may_hold_any_character() {
    let cases = [("E'a\\nb-1'", "a\nb"), ("'größe-1'", "größe"), ("'%_\\-1'", "%_\\")];
    assert_results("category", &cases).await;
    assert_results("id", &[("E'a-1\\n2'", "1\n2"), ("'x-größe'", "größe")]).await;
}
