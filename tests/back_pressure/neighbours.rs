//! Of the requests that share a transaction, one that cannot be written fails alone.

use super::*;

/// The service can be [stalled](STALL) from now on; nobody writes meanwhile.
async fn make_stall(client: &Client) {
    client.batch_execute(STALL).await.unwrap();
    client.batch_execute("DELETE FROM public.stall").await.unwrap();
}

/// Sends messages, one to each stream `q-N`, in such a way that all of them are in one batch.
async fn in_one_batch(client: &Client, app: &TestApp, messages: &[Value]) -> Vec<Answer> {
    client.batch_execute("INSERT INTO public.stall DEFAULT VALUES").await.unwrap();
    let send = |stream: String, message: &Value| {
        let body = json!({ "messages": [message] });
        let request = app.http.post(format!("{}/v1/streams/{stream}/messages", app.url)).json(&body);
        tokio::spawn(async move { Answer::of(request.send().await.unwrap()).await })
    };
    let first = send("first-1".into(), &json!({ "type": "T" }));
    until_at(client, "wait_event = 'PgSleep'", 1).await;
    let mut sent = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        sent.push(send(format!("q-{n}"), message));
        until("it waits behind the first", PATIENCE, || app.service.append.queued() == n + 1).await;
    }
    client.batch_execute("DELETE FROM public.stall").await.unwrap();
    assert_eq!(first.await.unwrap().status, 201);
    join_all(sent).await.into_iter().map(Result::unwrap).collect()
}

/// All but this one were written; answers that one.
fn alone(mut answers: Vec<Answer>, spoilt: usize) -> Answer {
    let refused = answers.remove(spoilt);
    for answer in answers {
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    refused
}

#[tokio::test]
async fn id_that_an_open_transaction_holds_fails_no_other_request_of_its_category() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_lock_timeout = Duration::from_secs(1)).await;
    let client = database.connect().await;
    make_stall(&client).await;
    let id = Uuid::new_v4();
    let writer = write_and_idle(&database, "held-1", id).await;
    let mut messages = vec![json!({ "type": "T" }); 12];
    messages[6]["id"] = json!(id);
    let answers = in_one_batch(&client, &app, &messages).await;
    // The category's lock is not what it waited for.
    let problem = alone(answers, 6).problem(503, "overloaded");
    assert_eq!((&problem["category"], &problem["holder_pids"]), (&json!("q"), &json!([])), "{problem}");
    writer.batch_execute("COMMIT").await.unwrap();
    let again = app.append("q-6", &json!({ "messages": [messages[6]] })).await;
    assert_eq!(again.problem(409, "message-id-reused")["stream_name"], "held-1");
}

#[tokio::test]
async fn message_that_a_trigger_refuses_fails_alone_whatever_code_it_is_refused_with() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let client = database.connect().await;
    make_stall(&client).await;
    let trigger = "CREATE FUNCTION public.judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF NEW.type = 'Bad' THEN RAISE EXCEPTION 'nothing bad is taken'; END IF; \
        IF NEW.type = 'Forbidden' THEN RAISE insufficient_privilege; END IF; RETURN NEW; END $$; \
        CREATE TRIGGER judge BEFORE INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION public.judge()";
    client.batch_execute(trigger).await.unwrap();
    let mut messages = vec![json!({ "type": "T" }); 12];
    messages[4]["type"] = json!("Bad");
    let problem = alone(in_one_batch(&client, &app, &messages).await, 4).problem(422, "invalid");
    assert!(problem["errors"][0]["message"].as_str().unwrap().contains("nothing bad is taken"), "{problem}");
    // As row-level security does.
    messages[4]["type"] = json!("Forbidden");
    let answer = alone(in_one_batch(&client, &app, &messages).await, 4);
    assert_eq!(answer.problem(500, "internal-error")["outcome"], "not_written");
    assert_eq!(count(&client).await, 24);
}
