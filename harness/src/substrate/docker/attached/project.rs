//! A compose project that runs: which containers are nodes, and what network they are.
//!
//! Services are named as nodes of the plan are. What the network is stands in the nodes' own network files, which are
//! read out of their containers. Nothing is changed here, and nothing outside of the project is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use bollard::models::{
    ContainerSummary, HostConfigLogConfig, NetworkSettings, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{DownloadFromContainerOptions, ListContainersOptions};
use futures_util::TryStreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use tweedledum_core::plan::Plan;

use super::super::container::DockerError;
use super::super::engine::Engine;
use super::alone;
use super::facts::Facts;

/// Labels that compose gives its containers.
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const ONE_OFF: &str = "com.docker.compose.oneoff";
/// How long a network file may be; a hundred nodes take some 40 KiB.
const FILE_MAX: usize = 1 << 20;
/// An entry of an archive begins with a header of this size.
const HEADER: usize = 512;

/// Networks of an engine that a container is on, by name, with its address there; none where the engine tells none.
type Networks = BTreeMap<String, String>;

/// A project.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// Its engine.
    pub engine: Engine,
    /// The nodes that the plan names.
    pub members: BTreeMap<String, Member>,
    /// What network they are.
    pub facts: Facts,
}

/// A node's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its name on the engine.
    pub container: String,
    /// The id of the image that it was made from.
    pub image: String,
    /// The node's address.
    pub address: IpAddr,
    /// Its network file, as it sees it.
    pub network: String,
    /// The networks of the engine that it is on, by name, with its address there where the engine tells one.
    pub on: Networks,
}

impl Member {
    /// A network that it was found on, and is not now; or not with the address that others know it by. One that has died
    /// has no address.
    fn missing_on(&self, now: &Networks) -> Option<&str> {
        let known = self.address.to_string();
        let moved = |found: &str, now: &str| found == known && !now.is_empty() && now != found;
        let mut found = self.on.iter();
        let missing = found
            .find(|(network, address)| now.get(*network).is_none_or(|now| moved(address, now)));
        missing.map(|(network, _)| network.as_str())
    }
}

/// Why a project cannot be attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// The engine does not answer, or refuses; its words.
    Engine(String),
    /// The engine has no such project.
    Missing {
        /// How it was named.
        name: String,
        /// Those that it has.
        others: BTreeSet<String>,
    },
    /// It is another network than the plan's, or cannot be seen as it is.
    Another {
        /// Its name.
        name: String,
        /// In what.
        wrong: Vec<String>,
    },
    /// Another run is attached to it; which.
    Taken(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(why) | Self::Taken(why) => f.write_str(why),
            Self::Missing { name, others } if others.is_empty() => write!(
                f,
                "the engine has no containers of a compose project `{name}`, nor of any other"
            ),
            Self::Missing { name, others } => {
                let others: Vec<String> = others.iter().map(|it| format!("`{it}`")).collect();
                write!(
                    f,
                    "the engine has no containers of a compose project `{name}`; those it has are of {}",
                    others.join(", ")
                )
            }
            Self::Another { name, wrong } => write!(
                f,
                "project {name} is not the plan's network: {}",
                wrong.join("; ")
            ),
        }
    }
}

impl Unfit {
    /// What to do next.
    pub fn next(&self) -> String {
        match self {
            Self::Engine(_) => "`tweedledum doctor` says what of the engine works".to_owned(),
            Self::Missing { name, others } if others.is_empty() => {
                format!("start it first: `docker-compose -p {name} up -d`")
            }
            Self::Missing { name, .. } => {
                format!("name one of these, or start it first: `docker-compose -p {name} up -d`")
            }
            Self::Another { name, .. } => format!(
                "name a plan of this network, or mend the compose file and bring it up with `docker-compose -p {name} up -d`; \
                 `docker ps -a --filter label={PROJECT}={name}` shows what there is of it"
            ),
            Self::Taken(_) => {
                "wait for the other run, or interrupt it: it brings up what it has stopped"
                    .to_owned()
            }
        }
    }
}

impl Project {
    /// The id of the image that each node runs.
    pub fn images(&self) -> BTreeMap<String, String> {
        let images = self.members.iter();
        images
            .map(|(node, member)| (node.clone(), member.image.clone()))
            .collect()
    }

    /// Makes sure that a node is where it was found. A death takes a container off its networks as well, so nobody is told
    /// when somebody does so to one that is down.
    pub(super) async fn still_there(&self, node: &str, member: &Member) -> Result<(), DockerError> {
        let seen = self.engine.docker().inspect_container(&member.id, None);
        let seen = seen.await;
        let seen = seen.map_err(|error| DockerError::engine("show a container", &error))?;
        let now = networks(seen.network_settings);
        let Some(network) = member.missing_on(&now) else {
            return Ok(());
        };
        Err(DockerError::Spec(format!(
            "{} is not on the network {network} any more as it was when this run began, and that is somebody else's doing; \
             `docker-compose -p {} up -d --no-deps --force-recreate {node}` puts it there again",
            member.container, self.name
        )))
    }

    /// Finds a project and holds it against a plan. Only looks.
    ///
    /// # Errors
    /// What is missing, does not run, or is another network than the plan's.
    pub fn find<'a>(name: &'a str, plan: &'a Plan) -> BoxFuture<'a, Result<Self, Unfit>> {
        async move {
            let engine = Engine::find().await;
            let engine = engine.map_err(|error| Unfit::Engine(error.to_string()))?;
            // Nodes that another run has stopped would be told to be missing.
            let alone = alone::make_sure(&engine, name, None).await;
            alone.map_err(|error| match error {
                DockerError::Spec(why) => Unfit::Taken(why),
                error => Unfit::Engine(error.to_string()),
            })?;
            let listed = containers(&engine).await;
            let listed = listed.map_err(|error| Unfit::Engine(error.to_string()))?;
            let there: Vec<_> = listed
                .iter()
                .filter(|it| label(it, PROJECT).is_some_and(|it| it == name))
                .collect();
            if there.is_empty() {
                let others = listed.iter().filter_map(|it| label(it, PROJECT).cloned());
                return Err(Unfit::Missing {
                    name: name.to_owned(),
                    others: others.collect(),
                });
            }
            let mut found = BTreeMap::new();
            let mut wrong = Vec::new();
            for node in &plan.nodes {
                let mut own = there
                    .iter()
                    .filter(|it| label(it, SERVICE) == Some(&node.name));
                match (own.next(), own.next()) {
                    (Some(one), None) => match up(&engine, one).await {
                        Ok(container) => {
                            found.insert(node.name.clone(), container);
                        }
                        Err(why) => wrong.push(format!("{}: {why}", node.name)),
                    },
                    (None, _) => wrong.push(format!("it has no service `{}`", node.name)),
                    (Some(_), Some(_)) => {
                        wrong.push(format!("`{}` has more than one container", node.name));
                    }
                }
            }
            let refused = |wrong: Vec<String>| Unfit::Another {
                name: name.to_owned(),
                wrong,
            };
            if !wrong.is_empty() {
                return Err(refused(wrong));
            }
            let reading = found.iter().map(async |(node, up)| {
                let facts = read_facts(&engine, &up.id, &up.network).await;
                facts
                    .map(|facts| (node, facts))
                    .map_err(|why| format!("{node}: {why}"))
            });
            let mut read = Vec::new();
            for one in join_all(reading).await {
                match one {
                    Ok(one) => read.push(one),
                    Err(why) => wrong.push(why),
                }
            }
            if !wrong.is_empty() {
                return Err(refused(wrong));
            }
            let Some((first, facts)) = read.first() else {
                return Err(refused(vec!["the plan has no nodes".to_owned()]));
            };
            wrong.extend(facts.unlike(plan));
            for (node, own) in &read {
                wrong.extend(own.unlike_others(node, first, facts));
            }
            let facts = facts.clone();
            let mut members = BTreeMap::new();
            for (node, up) in found {
                let Some(address) = facts.address(&node) else {
                    wrong.push(format!("its network file has no address of {node}"));
                    continue;
                };
                let Up {
                    id,
                    container,
                    image,
                    network,
                    on,
                } = up;
                let member = Member {
                    id,
                    container,
                    image,
                    address,
                    network,
                    on,
                };
                members.insert(node, member);
            }
            if !wrong.is_empty() {
                return Err(refused(wrong));
            }
            Ok(Self {
                name: name.to_owned(),
                engine,
                members,
                facts,
            })
        }
        .boxed()
    }
}

/// A container that runs.
struct Up {
    id: String,
    container: String,
    image: String,
    network: String,
    on: Networks,
}

/// The containers of all projects that are services and no one-offs.
async fn containers(engine: &Engine) -> Result<Vec<ContainerSummary>, DockerError> {
    let label = vec![PROJECT.to_owned()];
    let options = ListContainersOptions {
        all: true,
        filters: Some([("label".to_owned(), label)].into()),
        ..ListContainersOptions::default()
    };
    let listed = engine.docker().list_containers(Some(options)).await;
    let listed =
        listed.map_err(|error| DockerError::engine("list the containers of projects", &error))?;
    Ok(listed.into_iter().filter(|it| !one_off(it)).collect())
}

/// Whether it is one of `docker-compose run`: that has the label of a service, and is no node of the network.
fn one_off(container: &ContainerSummary) -> bool {
    label(container, ONE_OFF).is_some_and(|it| it.eq_ignore_ascii_case("true"))
}

fn label<'a>(container: &'a ContainerSummary, label: &str) -> Option<&'a String> {
    container.labels.as_ref()?.get(label)
}

async fn up(engine: &Engine, of: &ContainerSummary) -> Result<Up, String> {
    let id = of.id.clone().unwrap_or_default();
    let seen = engine.docker().inspect_container(&id, None).await;
    let seen = seen.map_err(|error| DockerError::engine("show a container", &error).to_string())?;
    let container = seen
        .name
        .unwrap_or_default()
        .trim_start_matches('/')
        .to_owned();
    let state = seen.state.unwrap_or_default();
    if state.running != Some(true) || state.paused == Some(true) {
        return Err(format!("{container} does not run; bring it up first"));
    }
    let config = seen.config.unwrap_or_default();
    if config.tty == Some(true) {
        return Err(format!(
            "{container} has a terminal (`tty: true`), so its log is no lines of JSON"
        ));
    }
    let host = seen.host_config.unwrap_or_default();
    if let Some(policy) = restarts(host.restart_policy.as_ref()) {
        return Err(format!(
            "{container} is started again by the engine (`restart: {policy}`), which would hide its deaths; attach to \
             services without a restart policy"
        ));
    }
    if let Some(why) = log_config_refused(host.log_config.as_ref()) {
        return Err(format!("{container} {why}"));
    }
    let words = config.cmd.unwrap_or_default();
    let mut after = words.iter().skip_while(|word| *word != "--network").skip(1);
    let network = after.next().cloned();
    let network = network.ok_or_else(|| {
        format!("{container} is not told where its network file is (`--network FILE`)")
    })?;
    Ok(Up {
        id,
        container,
        image: seen.image.unwrap_or_default(),
        network,
        on: networks(seen.network_settings),
    })
}

fn networks(settings: Option<NetworkSettings>) -> Networks {
    let networks = settings.and_then(|settings| settings.networks);
    let networks = networks.unwrap_or_default().into_iter();
    networks
        .map(|(name, on)| (name, on.ip_address.unwrap_or_default()))
        .collect()
}

/// The policy by which the engine starts a container again without being asked.
fn restarts(policy: Option<&RestartPolicy>) -> Option<RestartPolicyNameEnum> {
    let name = policy?.name?;
    let never = [RestartPolicyNameEnum::EMPTY, RestartPolicyNameEnum::NO];
    (!never.contains(&name)).then_some(name)
}

/// Why what a container prints could not be read back whole, and what to do. Drivers that cannot be read themselves have a
/// cache on the engine unless that is turned off.
fn log_config_refused(config: Option<&HostConfigLogConfig>) -> Option<String> {
    const FIX: &str = "give its service `logging: {driver: json-file}` and bring it up anew";
    let config = config?;
    let driver = config.typ.as_deref().unwrap_or_default();
    let option = |key: &str| config.config.as_ref()?.get(key).map(String::as_str);
    let readable = matches!(driver, "" | "json-file" | "local" | "journald");
    let uncached = option("cache-disabled").is_some_and(|it| it.eq_ignore_ascii_case("true"));
    if driver == "none" || (!readable && uncached) {
        return Some(format!(
            "has the log driver `{driver}`, from which nothing it prints can be read; {FIX}"
        ));
    }
    (option("mode") == Some("non-blocking")).then(|| {
        format!(
            "loses lines of its log when the engine is busy (`mode: non-blocking`), which would hide what it does; \
             {FIX}, without that option"
        )
    })
}

/// Reads a network file out of a container.
async fn read_facts(engine: &Engine, id: &str, path: &str) -> Result<Facts, String> {
    let options = DownloadFromContainerOptions {
        path: path.to_owned(),
    };
    let mut archive = Vec::new();
    let mut pieces = std::pin::pin!(engine.docker().download_from_container(id, Some(options)));
    let refused = |error| {
        let error = DockerError::engine(format!("give {path} out of a container"), &error);
        error.to_string()
    };
    while let Some(piece) = pieces.try_next().await.map_err(refused)? {
        archive.extend_from_slice(&piece);
        if archive.len() > FILE_MAX {
            return Err(format!("{path} is longer than {FILE_MAX} bytes"));
        }
    }
    let content = only_file(&archive).ok_or_else(|| format!("{path} is no file"))?;
    serde_json::from_slice(content).map_err(|error| format!("{path} is no network file: {error}"))
}

/// The content of an archive's first entry.
fn only_file(archive: &[u8]) -> Option<&[u8]> {
    let size = archive.get(124..135)?;
    let size = std::str::from_utf8(size).ok()?.trim_matches(['\0', ' ']);
    let size = usize::from_str_radix(size, 8).ok()?;
    archive.get(HEADER..HEADER.checked_add(size)?)
}

#[cfg(test)]
mod tests {
    use super::super::super::tar::Archive;
    use super::*;

    #[test]
    fn each_reason_has_a_next_step_of_its_own() {
        let name = || "net".to_owned();
        let others = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let wrong = vec!["it has no service `miner-0`".to_owned()];
        let all = [
            Unfit::Engine("no engine answers".to_owned()),
            Unfit::Missing {
                name: name(),
                others,
            },
            Unfit::Missing {
                name: name(),
                others: BTreeSet::new(),
            },
            Unfit::Another {
                name: name(),
                wrong,
            },
            Unfit::Taken("project net is attached to already".to_owned()),
        ];
        assert!(all[1].to_string().ends_with("of `a`, `b`"), "{}", all[1]);
        assert!(all[2].to_string().ends_with("any other"), "{}", all[2]);
        let next: BTreeSet<String> = all.iter().map(Unfit::next).collect();
        assert_eq!(next.len(), all.len(), "{next:?}");
    }

    /// As compose 1.29 and 2 write it.
    #[test]
    fn a_container_of_compose_run_is_no_node() {
        let labelled = |labels: &[(&str, &str)]| ContainerSummary {
            labels: Some(
                labels
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            ),
            ..ContainerSummary::default()
        };
        assert!(one_off(&labelled(&[(ONE_OFF, "True")])));
        assert!(!one_off(&labelled(&[(ONE_OFF, "False")])));
        assert!(!one_off(&labelled(&[(SERVICE, "miner-0")])));
    }

    #[test]
    fn a_container_that_the_engine_starts_again_is_told() {
        let policy = |name| RestartPolicy {
            name: Some(name),
            maximum_retry_count: None,
        };
        let always = RestartPolicyNameEnum::ALWAYS;
        assert_eq!(restarts(Some(&policy(always))), Some(always));
        assert_eq!(restarts(Some(&policy(RestartPolicyNameEnum::NO))), None);
        assert_eq!(restarts(Some(&policy(RestartPolicyNameEnum::EMPTY))), None);
        assert_eq!(restarts(None), None);
    }

    #[test]
    fn a_log_that_cannot_be_read_back_whole_is_refused_with_what_to_do() {
        let refused = |driver: &str, options: &[(&str, &str)]| {
            let options = options.iter();
            let config = options.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            log_config_refused(Some(&HostConfigLogConfig {
                typ: Some(driver.to_owned()),
                config: Some(config.collect()),
            }))
        };
        for (driver, options) in [
            ("json-file", &[("max-size", "10m"), ("max-file", "3")][..]),
            ("local", &[("mode", "blocking")]),
            ("journald", &[]),
            ("syslog", &[("cache-disabled", "false")]),
        ] {
            assert_eq!(refused(driver, options), None);
        }
        assert_eq!(log_config_refused(None), None);
        for (driver, options, want) in [
            ("none", &[][..], "the log driver `none`"),
            (
                "syslog",
                &[("cache-disabled", "true")],
                "the log driver `syslog`",
            ),
            (
                "json-file",
                &[("mode", "non-blocking")],
                "`mode: non-blocking`",
            ),
        ] {
            let why = refused(driver, options).unwrap();
            assert!(why.contains(want) && why.contains("`logging: "), "{why}");
        }
    }

    #[test]
    fn a_member_that_is_not_where_it_was_found_is_told() {
        let on = |networks: &[(&str, &str)]| -> Networks {
            let networks = networks.iter();
            networks
                .map(|(name, address)| ((*name).to_owned(), (*address).to_owned()))
                .collect()
        };
        let member = Member {
            id: "i".to_owned(),
            container: "p_miner-0_1".to_owned(),
            image: String::new(),
            address: std::net::Ipv4Addr::new(10, 0, 0, 7).into(),
            network: String::new(),
            on: on(&[("logs", "10.1.0.4"), ("p_net", "10.0.0.7")]),
        };
        for (now, missing) in [
            (&[("logs", "10.1.0.4"), ("p_net", "10.0.0.7")][..], None),
            // Only one of its addresses is known to others, and somebody may look at it from a network of theirs.
            (
                &[
                    ("logs", "10.1.0.5"),
                    ("p_net", "10.0.0.7"),
                    ("watch", "10.2.0.2"),
                ],
                None,
            ),
            (&[("logs", ""), ("p_net", "")], None),
            (&[("p_net", "10.0.0.7")], Some("logs")),
            (
                &[("logs", "10.1.0.4"), ("p_net", "10.0.0.8")],
                Some("p_net"),
            ),
            (&[], Some("logs")),
        ] {
            assert_eq!(member.missing_on(&on(now)), missing, "{now:?}");
        }
    }

    #[test]
    fn a_file_comes_out_of_its_archive() {
        let mut archive = Archive::default();
        archive.file("n.json", 0o644, b"{\"a\": 1}").unwrap();
        let bytes = archive.finish();
        assert_eq!(only_file(&bytes), Some(&b"{\"a\": 1}"[..]));
        assert_eq!(only_file(&bytes[..HEADER + 3]), None, "cut");
        assert_eq!(only_file(b"no archive"), None);
    }
}
