//! Addresses of engines, without an engine.

use super::*;

fn env(host: Option<&str>) -> EngineEnv {
    EngineEnv {
        host: host.map(str::to_owned),
        ..EngineEnv::default()
    }
}

#[test]
fn each_way_to_an_engine_is_spoken_or_refused_by_name() {
    for (host, tls, want) in [
        (None, false, Ok("unix:///var/run/docker.sock")),
        (Some("unix:///run/x.sock"), false, Ok("unix:///run/x.sock")),
        (
            Some("tcp://10.0.0.1:2375"),
            false,
            Ok("tcp://10.0.0.1:2375"),
        ),
        (
            Some("http://10.0.0.1:2375"),
            false,
            Ok("tcp://10.0.0.1:2375"),
        ),
        (
            Some("tcp://h:2376"),
            true,
            Err(
                "TLS is not supported; forward its socket with `ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock h`",
            ),
        ),
        (Some("https://h:2376"), false, Err("TLS is not supported")),
        (
            Some("ssh://me@h/"),
            false,
            Err(
                "ssh is not supported; forward its socket with `ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock me@h`",
            ),
        ),
        (
            Some("npipe:////./pipe/docker_engine"),
            false,
            Err("Windows"),
        ),
        (Some("fd://"), false, Err("engine itself")),
        (Some("unix://relative"), false, Err("absolute")),
        (Some("/run/x.sock"), false, Err("no scheme")),
        (
            Some("ssh://me@h:2222/run/x.sock"),
            false,
            Err("`ssh -nNT -L /tmp/engine.sock:/run/x.sock -p 2222 me@h`"),
        ),
        (
            Some("https://[::1]:2376/v1"),
            false,
            Err("`ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock ::1`"),
        ),
        (Some("tcp://[::1]:2375"), false, Ok("tcp://[::1]:2375")),
        (Some("tcp://"), false, Err("it names no host; write tcp://")),
        (Some("tcp://:2375"), true, Err("it names no host")),
        (Some("ssh://me@"), false, Err("it names no host")),
        (
            Some("tcp://h\u{1b}[2J"),
            false,
            Err("names tcp://h\\u{1b}[2J: it has control characters"),
        ),
        (Some("gopher://x"), false, Err("scheme is not known")),
    ] {
        let found = EngineAddress::find(&EngineEnv { tls, ..env(host) });
        match (found, want) {
            (Ok(address), Ok(url)) => assert_eq!(address.url, url),
            (Err(error), Err(text)) => {
                let said = error.to_string();
                assert!(said.contains(text), "{said}");
            }
            (found, want) => panic!("{host:?}: {found:?}, not {want:?}"),
        }
    }
}

#[test]
fn a_variable_that_is_no_text_is_refused_by_name() {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = || OsString::from_vec(b"unix:///\xff\x1b".to_vec());
    for key in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"] {
        let read = EngineEnv::of(|name| (name == key).then(bytes));
        let said = read.unwrap_err().to_string();
        assert!(said.starts_with(&format!("{key} is not UTF-8")), "{said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
    // A home directory is a path, which may be any bytes, and what is empty is not set.
    let read = EngineEnv::of(|name| match name {
        "HOME" => Some(bytes()),
        _ => Some(OsString::new()),
    });
    let config = Some(PathBuf::from(bytes()).join(".docker"));
    let want = EngineEnv {
        config,
        ..env(None)
    };
    assert_eq!(read.unwrap(), want);
}

#[test]
fn contexts_are_followed() {
    let home = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let meta = |name: &str, file: &str| {
        format!(
            "contexts/{file}/{}/meta.json",
            hex::encode(Sha256::digest(name))
        )
    };
    put("config.json", r#"{"auths": {}, "currentContext": "mine"}"#);
    put(
        &meta("mine", "meta"),
        r#"{"Name":"mine","Endpoints":{"docker":{"Host":"unix:///run/mine.sock"}}}"#,
    );
    put(
        &meta("far", "meta"),
        r#"{"Endpoints":{"docker":{"Host":"ssh://far"}}}"#,
    );
    put(
        &meta("safe", "meta"),
        r#"{"Endpoints":{"docker":{"Host":"tcp://safe:2376"}}}"#,
    );
    put(&meta("safe", "tls"), "");
    put(&meta("odd", "meta"), r#"{"Endpoints":[]}"#);
    put(&meta("other", "meta"), r#"{"Endpoints":{"kubernetes":{}}}"#);
    let find = |host: Option<&str>, context: Option<&str>| {
        EngineAddress::find(&EngineEnv {
            context: context.map(str::to_owned),
            config: Some(home.path().to_owned()),
            ..env(host)
        })
        .map_err(|error| error.to_string())
    };
    assert_eq!(find(None, None).unwrap().url, "unix:///run/mine.sock");
    assert_eq!(find(None, Some("default")).unwrap().url, DEFAULT_SOCKET);
    assert_eq!(
        find(Some("unix:///h"), Some("far")).unwrap().from,
        "DOCKER_HOST"
    );
    for (name, want) in [
        (
            "far",
            "the docker context `far` names ssh://far: ssh is not supported",
        ),
        ("safe", "TLS is not supported"),
        ("odd", "unknown form"),
        ("other", "no docker endpoint"),
        ("none", "the docker context `none` cannot be used"),
        ("a\nb", "the docker context `a\\nb` cannot be used"),
    ] {
        let said = find(None, Some(name)).unwrap_err();
        assert!(said.contains(want), "{said}");
    }
}
