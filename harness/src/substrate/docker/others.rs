//! What others do to the containers of a run.
//!
//! Whoever may use the engine may pause, limit, kill or disconnect any container, and a network to which that was done says
//! nothing about its release. The engine tells of every such deed in its events, ours included, so ours are counted
//! before they are asked for, and what is told beyond that is somebody else's.
//!
//! It decides nothing about what follows from that. Who starts a container again that is down is no case of it: the looks
//! at what the harness has killed see that.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::watch;

use super::container::{DockerError, State, inspect};
use super::engine::Engine;

/// What can be done to a container behind our back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    /// Any signal, also that of a stop or a restart.
    Kill,
    Pause,
    Unpause,
    /// Its limits were changed.
    Update,
    Destroy,
    /// It was taken out of a network.
    Disconnect,
}

impl Act {
    const ALL: [Self; 6] = [
        Self::Kill,
        Self::Pause,
        Self::Unpause,
        Self::Update,
        Self::Destroy,
        Self::Disconnect,
    ];

    /// As engines name it.
    const fn event(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Update => "update",
            Self::Destroy => "destroy",
            Self::Disconnect => "disconnect",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Kill => "sent a signal to",
            Self::Pause => "paused",
            Self::Unpause => "continued",
            Self::Update => "changed the limits of",
            Self::Destroy => "removed",
            Self::Disconnect => "disconnected",
        }
    }
}

/// The containers that are followed, by id.
#[derive(Debug, Default)]
pub(super) struct Others(Mutex<BTreeMap<String, Followed>>);

#[derive(Debug, Default)]
struct Followed {
    name: String,
    /// How often we have asked for what was not told yet.
    asked: BTreeMap<Act, u32>,
    /// We have sent it a signal, with which engines also continue one that is paused.
    signalled: bool,
    touched: bool,
}

impl Others {
    /// Follows a container from now on, if it is not followed yet.
    pub(super) fn follow(&self, id: &str, name: &str) {
        let mut all = self.lock();
        all.entry(id.to_owned()).or_insert_with(|| Followed {
            name: name.to_owned(),
            ..Followed::default()
        });
    }

    fn follows(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// We start it: it has another life.
    pub(super) fn starts(&self, id: &str) {
        self.with(id, |followed| followed.signalled = false);
    }

    /// Whatever happens to it from now on is ours.
    pub(super) fn let_go(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Does what is told as `act`, and counts it as ours. What the engine says it did not do is not told.
    pub(super) async fn ours<T>(
        &self,
        id: &str,
        act: Act,
        doing: impl Future<Output = Result<T, DockerError>>,
    ) -> Result<T, DockerError> {
        self.with(id, |followed| {
            *followed.asked.entry(act).or_default() += 1;
            followed.signalled |= act == Act::Kill;
        });
        let done = doing.await;
        let answered = |error: &DockerError| {
            matches!(
                error,
                DockerError::Engine {
                    status: Some(_),
                    ..
                }
            )
        };
        if done.as_ref().is_err_and(answered) {
            self.with(id, |followed| {
                followed.take(act);
            });
        }
        done
    }

    /// Whether somebody else has done something to it.
    pub(super) fn touched(&self, id: &str) -> bool {
        self.lock().get(id).is_some_and(|followed| followed.touched)
    }

    /// The engine tells of a deed; whose container that was, if it was not ours to do.
    fn heard(&self, id: &str, act: Act) -> Option<String> {
        let mut all = self.lock();
        let followed = all.get_mut(id)?;
        let ours = followed.take(act) || act == Act::Unpause && followed.signalled;
        followed.touched |= !ours;
        (!ours).then(|| followed.name.clone())
    }

    fn with(&self, id: &str, change: impl FnOnce(&mut Followed)) {
        if let Some(followed) = self.lock().get_mut(id) {
            change(followed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Followed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    /// Takes one of what we have asked for, if there is one.
    fn take(&mut self, act: Act) -> bool {
        let Some(asked) = self.asked.get_mut(&act).filter(|asked| **asked > 0) else {
            return false;
        };
        *asked -= 1;
        true
    }
}

/// Reads the engine's events, and tells the first time that somebody else has touched what is followed, or that nobody tells
/// that any more. It goes on reading: who ends one container may end others, and no node is to blame for any of that.
pub(super) async fn watch(engine: Engine, tell: watch::Sender<Option<String>>) {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    let filters = [
        ("type".to_owned(), words(&["container", "network"])),
        ("event".to_owned(), words(&Act::ALL.map(Act::event))),
    ];
    let options = EventsOptions {
        filters: Some(filters.into()),
        ..EventsOptions::default()
    };
    let mut events = std::pin::pin!(engine.docker().events(Some(options)));
    let why = loop {
        match events.next().await {
            Some(Ok(event)) => {
                let Some((id, act)) = deed(&event) else {
                    continue;
                };
                // What is not followed need not be looked at.
                if act == Act::Disconnect
                    && engine.others().follows(&id)
                    && inspect(&engine, &id)
                        .await
                        .is_ok_and(|state| is_an_end(&event, &state))
                {
                    continue;
                }
                if let Some(name) = engine.others().heard(&id, act) {
                    let done = act.done();
                    tell_first(&tell, || {
                        format!("somebody else {done} {name} on the engine while the run went on")
                    });
                }
            }
            Some(Err(error)) => break unheard(&error.to_string()),
            None => break unheard("its events have ended"),
        }
    };
    tell_first(&tell, || why);
}

/// What came first is why the run cannot go on; the rest follows from its end.
fn tell_first(tell: &watch::Sender<Option<String>>, why: impl FnOnce() -> String) {
    tell.send_if_modified(|told| {
        let first = told.is_none();
        if first {
            *told = Some(why());
        }
        first
    });
}

fn unheard(why: &str) -> String {
    format!("the engine does not tell any more what others do to the run's containers: {why}")
}

/// Whether a container was disconnected because it ended, of which the engine tells in the same words: it does not live, or
/// does so again only since after that.
fn is_an_end(disconnect: &EventMessage, state: &State) -> bool {
    let at = disconnect.time_nano.map(i128::from);
    let at = at.and_then(|at| Timestamp::from_nanosecond(at).ok());
    let began = state.started.parse::<Timestamp>().ok();
    !state.lives() || at.zip(began).is_some_and(|(at, began)| at < began)
}

/// Which container an event is about, and what was done to it.
fn deed(event: &EventMessage) -> Option<(String, Act)> {
    let word = event.action.as_deref()?;
    let act = Act::ALL.into_iter().find(|act| act.event() == word)?;
    let actor = event.actor.as_ref()?;
    let id = match event.typ? {
        EventMessageTypeEnum::CONTAINER => actor.id.clone()?,
        EventMessageTypeEnum::NETWORK if act == Act::Disconnect => {
            actor.attributes.as_ref()?.get("container")?.clone()
        }
        _ => return None,
    };
    Some((id, act))
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use bollard::models::EventActor;

    use super::*;

    #[tokio::test]
    async fn what_we_did_not_ask_for_is_somebody_elses() {
        let others = Others::default();
        others.follow("i", "p-gateway-0-node");
        assert_eq!(
            others.heard("another", Act::Kill),
            None,
            "it is not followed"
        );
        let touched = Some("p-gateway-0-node".to_owned());
        // Ours may be told before its answer comes, and after.
        let doing = async { Ok(others.heard("i", Act::Update)) };
        assert_eq!(others.ours("i", Act::Update, doing).await.unwrap(), None);
        others.ours("i", Act::Pause, ready(Ok(()))).await.unwrap();
        assert_eq!(others.heard("i", Act::Pause), None);
        assert!(!others.touched("i"));
        assert_eq!(
            others.heard("i", Act::Update),
            touched,
            "once more than we asked"
        );
        assert!(others.touched("i"));
        // What was refused is not told, so what is told is another's.
        let refused = DockerError::Engine {
            what: String::new(),
            why: String::new(),
            status: Some(409),
        };
        others
            .ours("i", Act::Pause, ready(Err::<(), _>(refused)))
            .await
            .unwrap_err();
        assert_eq!(others.heard("i", Act::Pause), touched);
        // An engine also continues what is paused when it is killed.
        assert_eq!(others.heard("i", Act::Unpause), touched);
        others.ours("i", Act::Kill, ready(Ok(()))).await.unwrap();
        for act in [Act::Kill, Act::Unpause] {
            assert_eq!(others.heard("i", act), None, "{act:?}");
        }
        others.starts("i");
        assert_eq!(others.heard("i", Act::Unpause), touched, "another life");
        others.let_go("i");
        assert_eq!(others.heard("i", Act::Destroy), None);
    }

    /// The engine was busy, and what the harness had killed was started again before its end was looked at.
    #[test]
    fn an_end_is_no_deed_of_others() {
        const BEGAN: &str = "2026-03-01T10:00:00.5Z";
        let began: Timestamp = BEGAN.parse().unwrap();
        let began = i64::try_from(began.as_nanosecond()).unwrap();
        for (running, at, end) in [
            (true, Some(began - 1), true),
            (true, Some(began), false),
            (true, Some(began + 1), false),
            (true, None, false),
            (false, Some(began + 1), true),
            (false, None, true),
        ] {
            let state = State {
                status: "running".to_owned(),
                running,
                started: BEGAN.to_owned(),
                ..State::default()
            };
            let disconnect = EventMessage {
                time_nano: at,
                ..EventMessage::default()
            };
            assert_eq!(is_an_end(&disconnect, &state), end, "{running} {at:?}");
        }
    }

    #[test]
    fn an_event_is_told_by_whom_it_is_about() {
        let event = |typ, action: &str, id: &str, container: Option<&str>| EventMessage {
            typ: Some(typ),
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some(id.to_owned()),
                attributes: container.map(|of| [("container".to_owned(), of.to_owned())].into()),
            }),
            ..EventMessage::default()
        };
        let (of_container, of_network) = (
            EventMessageTypeEnum::CONTAINER,
            EventMessageTypeEnum::NETWORK,
        );
        let some = |act| Some(("i".to_owned(), act));
        for (event, want) in [
            (event(of_container, "kill", "i", None), some(Act::Kill)),
            (event(of_container, "exec_create: true", "i", None), None),
            (
                event(of_network, "disconnect", "n", Some("i")),
                some(Act::Disconnect),
            ),
            (event(of_network, "disconnect", "n", None), None),
            // A network of that name.
            (event(of_network, "destroy", "i", None), None),
        ] {
            assert_eq!(deed(&event), want, "{event:?}");
        }
    }
}
