//! Failures of engines, without an engine.

use super::*;

#[tokio::test]
async fn what_stands_in_the_way_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let url = format!("unix://{}", dir.path().join(name).display());
        EngineAddress {
            url,
            from: "a test".to_owned(),
        }
    };
    let said = |address| async { Engine::connect(address).await.unwrap_err().to_string() };
    let text = said(at("none")).await;
    assert!(
        text.contains("there is no such socket; start the engine"),
        "{text}"
    );
    // A socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("dead")).unwrap());
    let text = said(at("dead")).await;
    assert!(
        text.contains("no engine answers") && text.contains("refused"),
        "{text}"
    );
    for (body, want) in [
        (
            r#"{"Version":"17.03","ApiVersion":"1.26"}"#,
            "speaks API 1.26; at least 1.40",
        ),
        (
            r#"{"Version":"20.10.24","ApiVersion":"1.41"}"#,
            "does not answer as an engine does: /info does not tell its system and its processor; is it Docker?",
        ),
        ("nonsense", "does not answer as an engine does"),
        ("{}", "does not answer as an engine does"),
    ] {
        let name = format!("engine-{}", body.len());
        let listener = tokio::net::UnixListener::bind(dir.path().join(&name)).unwrap();
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let text = said(at(&name)).await;
        assert!(text.contains(want), "{text}");
    }
}

/// Nobody waits for the bound of an ordinary request.
#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_tell_what_it_is_is_given_up_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            if String::from_utf8_lossy(&request[..length]).contains("/info") {
                silent.push(stream);
                continue;
            }
            let body = r#"{"Version":"20.10","ApiVersion":"1.41"}"#;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let address = EngineAddress {
        url: format!("unix://{}", path.display()),
        from: "a test".to_owned(),
    };
    let began = tokio::time::Instant::now();
    let text = Engine::connect(address).await.unwrap_err().to_string();
    assert!(text.contains("no answer to /info within 10 s"), "{text}");
    assert!(began.elapsed() < FIRST_ANSWER * 2, "{:?}", began.elapsed());
}
