//! What is removed, from an engine that only answers what is written here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use super::super::fake_engine::FakeEngine;
use super::super::ledger::NONCE_LABEL;
use super::super::thing::BEGINS;
use super::*;

/// A container whose making was still under way when the run died appears after containers were looked for, and uses a
/// volume that is to be removed.
#[tokio::test]
async fn what_appears_late_is_removed_before_what_it_uses() {
    let nonce = Nonce::from_bytes([7; 16]);
    let labels = json!({ NONCE_LABEL: nonce.to_string() });
    let node = Thing::of(&nonce, Role::Node, Some("miner-0"));
    let data = Thing::of(&nonce, Role::Data, Some("miner-0"));
    let (name, volume) = (node.name.clone(), data.name.clone());
    let (looks, node_gone, data_gone) = (
        AtomicUsize::new(0),
        AtomicBool::new(false),
        AtomicBool::new(false),
    );
    let gone = |what: &str| (404, json!({ "message": format!("no such {what}") }));
    let fake = FakeEngine::serve(move |method, parts| match (method, parts) {
        ("GET", ["containers", "json"]) => {
            let late = looks.fetch_add(1, Ordering::SeqCst) > 0;
            let there = late && !node_gone.load(Ordering::SeqCst);
            let it = json!({ "Id": "N", "Names": [format!("/{name}")], "Labels": labels });
            (200, if there { json!([it]) } else { json!([]) })
        }
        ("DELETE", ["containers", "N"]) => {
            node_gone.store(true, Ordering::SeqCst);
            (204, json!(null))
        }
        (_, ["volumes", _]) if data_gone.load(Ordering::SeqCst) => gone("volume"),
        ("GET", ["volumes", _]) => (
            200,
            json!({
                "Name": volume, "Labels": labels, "Driver": "local", "Mountpoint": "", "Scope": "local", "Options": {}
            }),
        ),
        ("DELETE", ["volumes", _]) if node_gone.load(Ordering::SeqCst) => {
            data_gone.store(true, Ordering::SeqCst);
            (204, json!(null))
        }
        ("DELETE", ["volumes", _]) => (409, json!({ "message": "volume is in use - [N]" })),
        other => panic!("{other:?} was not asked for"),
    });
    let engine = Engine::connect(fake.address()).await.unwrap();
    let things = vec![node, data];
    let entries = [fake.entry(), Entry::Planned { things }];
    let removal = remove_recorded(&engine, &entries, Duration::from_secs(20)).await;
    assert_eq!((removal.left, removal.removed), (vec![], 2));
}

/// An agent is made anew under its name after its node's restart; a run that dies in between has only recorded the former.
#[tokio::test]
async fn what_was_made_anew_and_not_recorded_is_removed() {
    let nonce = Nonce::from_bytes([7; 16]);
    let labels = json!({ NONCE_LABEL: nonce.to_string() });
    let agent = Thing::of(&nonce, Role::Agent, Some("gateway-0"));
    let (name, gone) = (agent.name.clone(), AtomicBool::new(false));
    let fake = FakeEngine::serve(move |method, parts| match (method, parts) {
        ("GET", ["containers", "A", "json"]) => (404, json!({ "message": "no such container" })),
        ("GET", ["containers", "json"]) => {
            let it = json!({ "Id": "B", "Names": [format!("/{name}")], "Labels": labels });
            let there = !gone.load(Ordering::SeqCst);
            (200, if there { json!([it]) } else { json!([]) })
        }
        ("DELETE", ["containers", "B"]) => {
            gone.store(true, Ordering::SeqCst);
            (204, json!(null))
        }
        other => panic!("{other:?} was not asked for"),
    });
    let engine = Engine::connect(fake.address()).await.unwrap();
    let (thing, id) = (agent, "A".to_owned());
    let entries = [fake.entry(), Entry::Made { thing, id }];
    let removal = remove_recorded(&engine, &entries, Duration::from_secs(20)).await;
    assert_eq!((removal.left, removal.removed), (vec![], 1));
}

/// An agent's start was under way when the run died: an engine that is told to remove it before spoils the network. One
/// that could not be started, and one that nobody starts, are removed as they are.
#[tokio::test]
async fn an_agent_that_is_about_to_start_is_removed_when_it_has() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Then {
        Starts,
        Fails,
        Stays,
    }
    for then in [Then::Starts, Then::Fails, Then::Stays] {
        let nonce = Nonce::from_bytes([7; 16]);
        let labels = json!({ NONCE_LABEL: nonce.to_string() });
        let (looks, gone) = (Arc::new(AtomicUsize::new(0)), AtomicBool::new(false));
        let looked = Arc::clone(&looks);
        let fake = FakeEngine::serve(move |method, parts| match (method, parts) {
            ("GET", ["containers", "json"]) => (200, json!([])),
            ("GET", _) if gone.load(Ordering::SeqCst) => (404, json!({ "message": "no such" })),
            ("GET", ["containers", "A", "json"]) => {
                let late = looked.fetch_add(1, Ordering::SeqCst) > 3;
                let state = match then {
                    Then::Starts if late => json!({ "Status": "running", "Running": true }),
                    Then::Fails if late => json!({ "Status": "created", "Error": "no memory" }),
                    _ => json!({ "Status": "created" }),
                };
                let config = json!({ "Labels": labels });
                (200, json!({ "Id": "A", "State": state, "Config": config }))
            }
            ("DELETE", ["containers", "A"]) => {
                gone.store(true, Ordering::SeqCst);
                (204, json!(null))
            }
            other => panic!("{other:?} was not asked for"),
        });
        let engine = Engine::connect(fake.address()).await.unwrap();
        let thing = Thing::of(&nonce, Role::Agent, Some("miner-0"));
        let id = "A".to_owned();
        let entries = [fake.entry(), Entry::Made { thing, id }];
        let began = Instant::now();
        let removal = remove_recorded(&engine, &entries, Duration::from_secs(20)).await;
        assert_eq!((removal.left, removal.removed), (vec![], 1), "{then:?}");
        let looks = looks.load(Ordering::SeqCst);
        if then == Then::Stays {
            assert!(began.elapsed() >= BEGINS, "{looks} looks");
        } else {
            assert_eq!(looks, 5, "{then:?}");
        }
    }
}

/// Intents lie where nodes of the same user can write: an id in them is no proof that a container is the run's.
#[tokio::test]
async fn what_does_not_carry_the_nonce_is_not_removed() {
    let nonce = Nonce::from_bytes([7; 16]);
    let fake = FakeEngine::serve(|method, parts| match (method, parts) {
        ("GET", ["containers", "N", "json"]) => {
            (200, json!({ "Id": "N", "Config": { "Labels": {} } }))
        }
        other => panic!("{other:?} was not asked for"),
    });
    let engine = Engine::connect(fake.address()).await.unwrap();
    let thing = Thing::of(&nonce, Role::Node, Some("miner-0"));
    let id = "N".to_owned();
    let entries = [fake.entry(), Entry::Made { thing, id }];
    let removal = remove_recorded(&engine, &entries, Duration::from_secs(20)).await;
    assert_eq!(removal, Removal::default());
}

#[tokio::test]
async fn an_engine_is_found_where_it_is_now_if_it_is_the_same() {
    let unasked = |_: &str, _: &[&str]| panic!("nothing was to be asked for");
    let (here, dead) = (FakeEngine::serve(unasked), {
        let gone = FakeEngine::serve(unasked);
        gone.address()
    });
    let found = reach("E", dead.clone(), Engine::connect(here.address())).await;
    assert_eq!(found.unwrap().about().address, here.address());
    let other = reach("F", dead.clone(), Engine::connect(here.address())).await;
    let told = other.unwrap_err().to_string();
    assert!(told.contains(&dead.url), "{told}");
}

/// A keeper that somebody paused before its run died cannot go by itself; one that lives on when it is continued is kept by
/// a run elsewhere.
#[tokio::test]
async fn a_paused_keeper_is_continued_and_then_says_whether_its_run_lives() {
    #[derive(Clone, Copy, PartialEq)]
    enum Then {
        Goes,
        Stays,
        WillNot,
    }
    for then in [Then::Goes, Then::Stays, Then::WillNot] {
        let nonce = Nonce::from_bytes([7; 16]);
        let labels = json!({ NONCE_LABEL: nonce.to_string() });
        let (paused, removed) = (AtomicBool::new(true), Arc::new(AtomicUsize::new(0)));
        let deletes = Arc::clone(&removed);
        let fake = FakeEngine::serve(move |method, parts| match (method, parts) {
            ("GET", ["containers", "K", "json"]) if deletes.load(Ordering::SeqCst) > 0 => {
                (404, json!({ "message": "no such container" }))
            }
            ("GET", ["containers", "K", "json"]) => {
                let paused = paused.load(Ordering::SeqCst);
                let running = paused || then != Then::Goes;
                let state = json!({ "Running": running, "Paused": paused });
                (
                    200,
                    json!({ "Id": "K", "State": state, "Config": { "Labels": labels } }),
                )
            }
            ("POST", ["containers", "K", "unpause"]) if then == Then::WillNot => {
                (500, json!({ "message": "the kernel says no" }))
            }
            ("POST", ["containers", "K", "unpause"]) => {
                paused.store(false, Ordering::SeqCst);
                (204, json!(null))
            }
            ("DELETE", ["containers", "K"]) => {
                deletes.fetch_add(1, Ordering::SeqCst);
                (204, json!(null))
            }
            ("GET", ["containers", "json"] | ["networks"]) => (200, json!([])),
            ("GET", ["volumes"]) => (200, json!({ "Volumes": [] })),
            other => panic!("{other:?} was not asked for"),
        });
        let engine = Engine::connect(fake.address()).await.unwrap();
        let thing = Thing::of(&nonce, Role::Keeper, None);
        let id = "K".to_owned();
        let entries = [fake.entry(), Entry::Made { thing, id }];
        let (bound, patience) = (Duration::from_secs(20), Duration::from_millis(300));
        let cleaned = clean_when_over(&engine, &entries, bound, patience).await;
        let deleted = removed.load(Ordering::SeqCst);
        match (then, cleaned) {
            (Then::Goes, Cleaned::Dead(removal)) => {
                assert_eq!((removal.left, removal.removed, deleted), (vec![], 1, 1));
            }
            (Then::Stays, Cleaned::Live) => assert_eq!(deleted, 0),
            (Then::WillNot, Cleaned::Unknown { why }) => {
                assert!(why.contains("the kernel says no") && why.contains("`docker unpause "));
                assert_eq!(deleted, 0);
            }
            (_, other) => panic!("{other:?}"),
        }
    }
}
