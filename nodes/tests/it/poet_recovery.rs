//! A PoET that is killed at each phase of a round and started again: nothing that was acknowledged is
//! lost, and what comes out is the same proof.

use super::poet_support::{Gateway, Place, Poet};
use super::support::{pause, poll};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tweedledum_nodes::poet::Params;

const CHALLENGE: [u8; 32] = [5; 32];
const LABELS: u64 = 512;

fn params() -> Params {
    Params::new(9, 10, 20).unwrap()
}

struct Setting {
    place: Place,
    gateway: Gateway,
}

impl Setting {
    fn new(layer: u64, lead: u64, takes: bool) -> Self {
        let place = Place::new(Duration::from_millis(layer), Duration::from_millis(lead));
        let at = SocketAddr::from((place.block.ip(1), 9090));
        Self {
            gateway: Gateway::start(at, takes),
            place,
        }
    }

    fn start(&self, more: &[&str]) -> Poet {
        let gateway = self.gateway.at.to_string();
        let flags = [
            "--n",
            "9",
            "--depth",
            "10",
            "--openings",
            "20",
            "--gateway",
            &gateway,
        ];
        self.place.start(&[&flags[..], more].concat())
    }

    /// A PoET in whose round 0 the challenge is registered.
    fn registered(&self, more: &[&str]) -> Poet {
        let mut poet = self.start(more);
        poet.0.event("ready");
        assert_eq!(poet.register(CHALLENGE), 0);
        poet
    }

    /// Waits until the work of round 0 has written so many labels.
    fn until_labels(&self, labels: u64) {
        let file = self.place.data().join("0/layercache_0.bin");
        let written = || fs_err::metadata(&file).map_or(0, |file| file.len() / 32);
        poll(
            &|| format!("{labels} labels, {} are there", written()),
            || written() >= labels,
        );
    }

    /// Round 0 ends as if nothing had been: its proof is taken, true, and has the member; then it is
    /// removed.
    fn ends_well(&self, mut poet: Poet) {
        assert_eq!(poet.event("proof-made", 0)["members"], 1);
        poet.event("round-removed", 0);
        let proof = self.gateway.proof(0, params());
        assert_eq!(proof.members.as_slice(), [CHALLENGE]);
        assert!(!self.place.data().join("0").exists());
        poet.stop();
    }
}

fn recovered(poet: &mut Poet) -> (Value, u64) {
    let event = poet.event("round-recovered", 0);
    (event["phase"].clone(), event["next_leaf"].as_u64().unwrap())
}

#[test]
fn killed_while_open_and_back_while_open() {
    let setting = Setting::new(200, 1500, true);
    setting.registered(&[]).kill();
    let mut poet = setting.start(&[]);
    poet.event("round-opened", 0);
    assert_eq!(poet.event("round-executing", 0)["members"], 1);
    setting.ends_well(poet);
}

#[test]
fn killed_while_open_and_back_when_it_should_have_closed() {
    let setting = Setting::new(200, 700, true);
    setting.registered(&[]).kill();
    let closed = setting.place.genesis - 2 * setting.place.layer;
    while let Ok(left) = closed.duration_since(SystemTime::now()) {
        pause(left);
    }
    let mut poet = setting.start(&[]);
    assert_eq!(recovered(&mut poet), (json!("executing"), 0));
    setting.ends_well(poet);
}

#[test]
fn killed_while_executing_it_goes_on_from_the_last_checkpoint() {
    let setting = Setting::new(400, 700, true);
    let poet = setting.registered(&["--checkpoint-labels", "64"]);
    // With so many on disk, the checkpoint at half of them is complete.
    setting.until_labels(128);
    poet.kill();
    let mut poet = setting.start(&[]);
    let (phase, next) = recovered(&mut poet);
    assert_eq!(phase, "executing");
    assert!((64..LABELS).contains(&next) && next % 64 == 0, "{next}");
    setting.ends_well(poet);
}

#[test]
fn stopped_while_executing_it_goes_on_where_it_was() {
    let setting = Setting::new(400, 700, true);
    let far = (2 * LABELS).to_string();
    let mut poet = setting.registered(&["--checkpoint-labels", &far]);
    poet.event("round-executing", 0);
    // Without checkpoints on the way, layers are written by whole blocks.
    setting.until_labels(128);
    poet.stop();
    let mut poet = setting.start(&[]);
    let (phase, next) = recovered(&mut poet);
    assert_eq!(phase, "executing");
    assert!((128..LABELS).contains(&next), "{next}");
    setting.ends_well(poet);
}

#[test]
fn killed_while_sending_it_sends_the_same_proof_again() {
    let setting = Setting::new(200, 700, false);
    let mut poet = setting.registered(&[]);
    let made = poet.event("proof-made", 0);
    poet.event("broadcast-failed", 0);
    poet.kill();
    setting.gateway.take_from_now_on();
    let mut poet = setting.start(&[]);
    assert_eq!(recovered(&mut poet), (json!("executed"), LABELS));
    setting.ends_well(poet);
    let proof = setting.gateway.proof(0, params());
    assert_eq!(made["ref"], hex::encode(proof.reference()));
    assert_eq!(made["poet"], hex::encode(proof.service));
}

#[test]
fn a_round_that_was_given_up_comes_back_by_a_restart_only() {
    let setting = Setting::new(200, 700, false);
    let mut poet = setting.registered(&[]);
    poet.event("broadcast-gave-up", 0);
    setting.gateway.take_from_now_on();
    poet.event("round-removed", 1);
    assert_eq!(setting.gateway.rounds(params()), [1]);
    assert!(setting.place.data().join("0").exists());
    poet.stop();

    let mut poet = setting.start(&["--norecovery"]);
    poet.0.event("ready");
    assert!(setting.place.data().join("0").exists());
    poet.stop();

    let mut poet = setting.start(&[]);
    assert_eq!(recovered(&mut poet), (json!("executed"), LABELS));
    setting.ends_well(poet);
}

#[test]
fn what_cannot_be_taken_up_is_one_failed_round_and_not_the_end() {
    let setting = Setting::new(200, 700, true);
    setting.registered(&[]).kill();
    let closed = setting.place.genesis - 2 * setting.place.layer;
    while let Ok(left) = closed.duration_since(SystemTime::now()) {
        pause(left);
    }
    fs_err::write(setting.place.data().join("0/state.bin"), b"").unwrap();
    let mut poet = setting.start(&[]);
    let failed = poet.event("round-failed", 0);
    assert_eq!(failed["cause"], "io");
    assert!(
        failed["error"].as_str().unwrap().contains("empty"),
        "{failed}"
    );
    let round = poet.register(CHALLENGE);
    poet.event("round-removed", round);
    assert!(setting.place.data().join("0").exists());
    poet.stop();
}
