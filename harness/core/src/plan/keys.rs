//! Every mapping of a plan and every key in it, once: the decoder, "did you mean" and the JSON Schema read this table.
//!
//! To add a key: a line here and a read in [`super::decode`]; the reader panics on a key that is read but not declared,
//! and a test finds keys that are declared but never read. Parameters of faults and expectations are declared with their
//! kinds, see [`crate::params`].

use crate::params::Need;
use crate::substrate::SubstrateKind;

/// One kind of mapping.
#[derive(Debug)]
pub(super) struct Mapping {
    /// What it is called in the schema, and in messages after "in": "a timeline entry".
    pub(super) name: &'static str,
    /// One sentence.
    pub(super) doc: &'static str,
    /// Its keys in the order of the reference.
    pub(super) keys: &'static [Key],
    /// Of each of these sets exactly one key is given; extra keys count towards the first set.
    pub(super) one_of: &'static [&'static [&'static str]],
    /// Keys that come from a registry.
    pub(super) extra: Extra,
}

/// Keys of a mapping that come from a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    None,
    Faults,
    Expectations,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) need: Need,
    pub(super) doc: &'static str,
}

/// What a key takes.
#[derive(Debug)]
pub(super) enum Takes {
    /// Text on one line.
    Text,
    /// Text of several lines.
    Lines,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number between these.
    Count { min: u64, max: u64 },
    /// True or false.
    Flag,
    /// `2/3`, `66%`.
    Fraction,
    /// `epoch 2.75`, `layer 11`, `3s`.
    Instant,
    /// `3 epochs`, `500ms`.
    Span,
    /// `500ms`.
    Duration,
    /// `64KiB`.
    Size,
    /// `64KiB`, `1.5 rounds`.
    Capacity,
    /// A selector or a list of them.
    Nodes,
    /// A setting's value, by the kind its role declares.
    Setting,
    /// This mapping.
    Map(&'static Mapping),
    /// Keys are names of the plan's own.
    Named(&'static Takes),
    /// A list.
    List(&'static Takes),
    /// Any of these.
    Either(&'static [Takes]),
}

const fn required(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key {
        name,
        takes,
        need: Need::Required,
        doc,
    }
}

const fn optional(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key {
        name,
        takes,
        need: Need::Optional,
        doc,
    }
}

const fn defaults(
    name: &'static str,
    takes: Takes,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        takes,
        need: Need::Default(default),
        doc,
    }
}

/// The format this code reads.
pub(super) const FORMAT: u64 = 1;
/// Node names become `ROLE-i`; a run of more needs more than one machine.
pub(super) const NODES_MAX: u64 = 1000;

pub(super) static PLAN: Mapping = Mapping {
    name: "plan",
    doc: "A network, a timeline of faults, expectations and controls.",
    keys: &[
        required(
            "format",
            Takes::Count {
                min: FORMAT,
                max: FORMAT,
            },
            "The version of this format; the first key of every plan.",
        ),
        required(
            "plan",
            Takes::Text,
            "The plan's name, also of its run directories: lower-case letters, digits, `-`, `.`, `_`.",
        ),
        defaults(
            "seed",
            Takes::Count {
                min: 0,
                max: u64::MAX,
            },
            "0",
            "The seed of everything random, unless the command line names another.",
        ),
        defaults(
            "substrate",
            Takes::Word(SubstrateKind::WORDS),
            SubstrateKind::Process.word(),
            "Where nodes live, unless the command line says otherwise: as processes of this machine, or in containers of a Docker engine.",
        ),
        required(
            "network",
            Takes::Map(&NETWORK),
            "The nodes under test and their protocol time.",
        ),
        optional(
            "roles",
            Takes::Named(&Takes::Map(&ROLE)),
            "Roles of the plan's own, in the form that `list roles` prints; one of the same name replaces a bundled role.",
        ),
        optional(
            "releases",
            Takes::Named(&Takes::Map(&RELEASE)),
            "Releases of the plan's own.",
        ),
        optional(
            "tolerates",
            Takes::List(&Takes::Map(&TOLERANCE)),
            "Liveness is demanded while all of these hold.",
        ),
        optional(
            "controls",
            Takes::Named(&Takes::Map(&CONTROL)),
            "Releases that must pass, or must fail for stated reasons: the plan's own test.",
        ),
        optional(
            "timeline",
            Takes::List(&Takes::Map(&ENTRY)),
            "Faults and heals.",
        ),
        required(
            "expect",
            Takes::List(&Takes::Map(&EXPECTATION)),
            "What must hold.",
        ),
        optional(
            "until",
            Takes::Instant,
            "Ends the run; without it a run ends when the last bound after the last heal is over.",
        ),
    ],
    one_of: &[],
    extra: Extra::None,
};

pub(super) static NETWORK: Mapping = Mapping {
    name: "network",
    doc: "Nodes by role, settings, and how long a layer and an epoch last.",
    keys: &[
        required(
            "layer",
            Takes::Duration,
            "Length of a layer, at least 50ms.",
        ),
        required(
            "layers-per-epoch",
            Takes::Count {
                min: 1,
                max: 1_000_000,
            },
            "Layers in an epoch; the real network has 4,032.",
        ),
        required(
            "nodes",
            Takes::Named(&Takes::Count {
                min: 1,
                max: NODES_MAX,
            }),
            "How many nodes of each role; they are called ROLE-0, ROLE-1, ..., and 1,000 in all is the limit.",
        ),
        optional(
            "settings",
            Takes::Named(&Takes::Named(&Takes::Setting)),
            "Settings for `all`, for a role or for one node; the narrower wins.",
        ),
        optional(
            "limits",
            Takes::Named(&Takes::Map(&LIMITS)),
            "What `all` nodes, those of a role or one node can use at most, from their start on; no heal lifts it.",
        ),
    ],
    one_of: &[],
    extra: Extra::None,
};

pub(super) static LIMITS: Mapping = Mapping {
    name: "limits",
    doc: "What a node can use at most; held by the harness.",
    keys: &[required(
        "disk",
        Takes::Capacity,
        "Room for the files of its data directory: a size, or `rounds` of the role's `round-bytes`.",
    )],
    one_of: &[],
    extra: Extra::None,
};

pub(super) static ROLE: Mapping = Mapping {
    name: "role",
    doc: "How one kind of node is started, when it is ready, how it stops, which signals it exposes.",
    keys: &[
        optional(
            "command",
            Takes::List(&Takes::Lines),
            "Program and arguments; placeholders in braces, `{settings}` for all settings as --key value. Only with `image` it may be left out.",
        ),
        optional(
            "image",
            Takes::Text,
            "In containers, the image that its nodes are started from instead of one with the harness's executable: by the program of `command`, or where that is `{release.bin}` or left out by the image's own entry point.",
        ),
        defaults(
            "pull",
            Takes::Either(&[Takes::Flag, Takes::Word(&[PULL_MISSING])]),
            "false",
            "Whether the engine fetches `image` from its registry: always with `true`, only where it lacks it with `missing`.",
        ),
        optional(
            "settings",
            Takes::Named(&Takes::Word(SETTING_KINDS)),
            "Settings it takes, each with its kind of value.",
        ),
        optional(
            "speaks",
            Takes::List(&Takes::Text),
            "Protocols it speaks; some faults require one.",
        ),
        optional(
            "ports",
            Takes::Named(&Takes::Either(&[
                Takes::Word(TRANSPORTS),
                Takes::Map(&PORT),
            ])),
            "Named ports of a node's own address.",
        ),
        required("ready", Takes::Map(&READY), "When it counts as ready."),
        optional("stop", Takes::Map(&STOP), "How it is asked to stop."),
        defaults(
            "expect-exit",
            Takes::List(&Takes::Count { min: 0, max: 255 }),
            "[]",
            "Exit codes of an orderly stop; any other end makes the run fail. With none, only a stop signal that was ignored is told.",
        ),
        optional(
            "signals",
            Takes::Named(&Takes::Map(&SIGNAL)),
            "What it exposes that must keep advancing.",
        ),
        optional(
            "events",
            Takes::List(&Takes::Text),
            "Events it reports as JSON lines on standard output that are recorded, for the checks that nobody asks for.",
        ),
        optional(
            "panics",
            Takes::List(&Takes::Text),
            "Components that its `panic` events may name, for controls that are to name no other. Without it, any.",
        ),
        optional(
            "env",
            Takes::Named(&Takes::Lines),
            "The environment it gets: nothing else of the harness's own, and in containers besides the image's.",
        ),
        optional(
            "round-bytes",
            Takes::Size,
            "What one round takes on its disk: what `rounds` means in limits and disk faults.",
        ),
    ],
    one_of: &[],
    extra: Extra::None,
};

/// An image is fetched where the engine lacks it.
pub(super) const PULL_MISSING: &str = "missing";
/// Events of a role that are recorded; the bundled roles report about ten.
pub(super) const EVENTS_MAX: usize = 32;
pub(super) const SETTING_KINDS: &[&str] = &["count", "duration", "size", "text", "flag"];
pub(super) const TRANSPORTS: &[&str] = &["tcp", "udp", "udp+tcp"];

pub(super) static PORT: Mapping = Mapping {
    name: "port",
    doc: "A named port with its number.",
    keys: &[
        required(
            "port",
            Takes::Count { min: 1, max: 65535 },
            "The number, the same on every node, since each has an address of its own.",
        ),
        required(
            "transport",
            Takes::Word(TRANSPORTS),
            "Which transports listen there.",
        ),
    ],
    one_of: &[],
    extra: Extra::None,
};

pub(super) static READY: Mapping = Mapping {
    name: "ready",
    doc: "When a node counts as ready: exactly one of `http`, `tcp`, `log`, `exec`.",
    keys: &[
        optional(
            "http",
            Takes::Text,
            "A GET of this URL answers with `status`.",
        ),
        defaults(
            "status",
            Takes::Count { min: 100, max: 599 },
            "200",
            "The status that `http` waits for.",
        ),
        optional(
            "tcp",
            Takes::Text,
            "A connection to this address is accepted.",
        ),
        optional(
            "log",
            Takes::Text,
            "A line of output matches this regular expression.",
        ),
        optional("exec", Takes::List(&Takes::Lines), "This command exits 0."),
        defaults(
            "within",
            Takes::Duration,
            "2s",
            "How long that may take once all nodes may have been started, and at least 10s after a later start; genesis waits for the slowest role.",
        ),
    ],
    one_of: &[&["http", "tcp", "log", "exec"]],
    extra: Extra::None,
};

pub(super) static STOP: Mapping = Mapping {
    name: "stop",
    doc: "How a node is asked to stop.",
    keys: &[
        defaults(
            "signal",
            Takes::Word(&["TERM", "INT"]),
            "TERM",
            "The polite signal.",
        ),
        defaults("grace", Takes::Duration, "2s", "How long until SIGKILL."),
    ],
    one_of: &[],
    extra: Extra::None,
};

pub(super) static SIGNAL: Mapping = Mapping {
    name: "signal",
    doc: "Something monotonic that must keep advancing: exactly one of `json`, `metric`, `log`.",
    keys: &[
        optional(
            "json",
            Takes::Text,
            "A JSON pointer (RFC 6901) into the answer of `from`.",
        ),
        optional(
            "metric",
            Takes::Text,
            "The name of a Prometheus sample at `from`, summed over labels.",
        ),
        optional(
            "log",
            Takes::Text,
            "The `event` of a JSON line of the node's output.",
        ),
        optional(
            "from",
            Takes::Text,
            "The URL that `json` and `metric` are read from.",
        ),
        optional(
            "value",
            Takes::Text,
            "A JSON pointer into the line that `log` names.",
        ),
        required(
            "period",
            Takes::Span,
            "How often it advances in a healthy network; no bound may be under 1.25 of it.",
        ),
        defaults(
            "any-only",
            Takes::Flag,
            "false",
            "It may only be asked of `any ROLE`, since one node's healthy gaps are long.",
        ),
    ],
    one_of: &[&["json", "metric", "log"]],
    extra: Extra::None,
};

pub(super) static RELEASE: Mapping = Mapping {
    name: "release",
    doc: "A named version of the software under test: an executable, or a bundled release with fixes switched off.",
    keys: &[
        optional(
            "bin",
            Takes::Text,
            "The executable that `{release.bin}` stands for; a relative path starts at the plan's directory.",
        ),
        optional(
            "base",
            Takes::Text,
            "The bundled release it is or builds on.",
        ),
        optional(
            "without",
            Takes::List(&Takes::Text),
            "Fixes of `base` that are switched off.",
        ),
    ],
    one_of: &[],
    extra: Extra::None,
};

pub(super) static TOLERANCE: Mapping = Mapping {
    name: "tolerance",
    doc: "A condition on the nodes that the harness has not impaired.",
    keys: &[
        optional(
            "at-least",
            Takes::Count {
                min: 1,
                max: NODES_MAX,
            },
            "At least this many nodes.",
        ),
        optional(
            "more-than",
            Takes::Fraction,
            "More than this fraction of the nodes.",
        ),
        required("of", Takes::Nodes, "Of these nodes."),
        optional(
            "reachable-from",
            Takes::Nodes,
            "Reachable from every (or any) node of these. No fault cuts links yet, so all that are not impaired are.",
        ),
        optional(
            "connected",
            Takes::Word(&["mutually"]),
            "Each of them reaches each other. No fault cuts links yet, so all that are not impaired do.",
        ),
    ],
    one_of: &[&["at-least", "more-than"]],
    extra: Extra::None,
};

pub(super) static CONTROL: Mapping = Mapping {
    name: "control",
    doc: "What a release's verdict must be, and why.",
    keys: &[
        required(
            "verdict",
            Takes::Word(&["pass", "fail"]),
            "What its verdict must be.",
        ),
        optional(
            "findings",
            Takes::List(&FINDING_PATTERN),
            "All of these must be found; only with `fail`.",
        ),
        optional(
            "also-allowed",
            Takes::List(&FINDING_PATTERN),
            "These may be found as well; any other is a wrong reason. Only with `fail`.",
        ),
    ],
    one_of: &[],
    extra: Extra::None,
};

static FINDING_PATTERN: Takes = Takes::Either(&[Takes::Text, Takes::Map(&FINDING)]);

pub(super) static FINDING: Mapping = Mapping {
    name: "finding",
    doc: "A finding that a control names.",
    keys: &[
        required("id", Takes::Text, "`area/what`."),
        optional("role", Takes::Text, "Only of this role."),
        optional(
            "says",
            Takes::Text,
            "Only when its sentence contains this, in upper or lower case.",
        ),
    ],
    one_of: &[],
    extra: Extra::None,
};

pub(super) static ENTRY: Mapping = Mapping {
    name: "entry",
    doc: "One line of the timeline: when, and exactly one fault or `heal`.",
    keys: &[
        required(
            "at",
            Takes::Instant,
            "When it begins; no fault before epoch 2.",
        ),
        optional(
            "for",
            Takes::Span,
            "How long a fault lasts; without it, until its heal or the end of the run.",
        ),
        optional(
            "name",
            Takes::Text,
            "What heals and findings call it; required where nodes are drawn.",
        ),
        defaults(
            "must-be-felt",
            Takes::Flag,
            "false",
            "The run only counts when the target itself was hit.",
        ),
        optional(
            "heal",
            Takes::Either(&[Takes::Text, Takes::List(&Takes::Text)]),
            "Takes back `all` faults or the named ones.",
        ),
    ],
    one_of: &[&["heal"]],
    extra: Extra::Faults,
};

pub(super) static EXPECTATION: Mapping = Mapping {
    name: "expectation",
    doc: "Exactly one kind of expectation with its parameters.",
    keys: &[],
    one_of: &[&[]],
    extra: Extra::Expectations,
};

/// Every mapping above, for tests and the schema's definitions.
pub(super) static ALL: &[&Mapping] = &[
    &PLAN,
    &NETWORK,
    &LIMITS,
    &ROLE,
    &PORT,
    &READY,
    &STOP,
    &SIGNAL,
    &RELEASE,
    &TOLERANCE,
    &CONTROL,
    &FINDING,
    &ENTRY,
    &EXPECTATION,
];

impl Mapping {
    /// The declaration of a key.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Whether this key may stand here.
    pub(super) fn has(&self, name: &str) -> bool {
        self.key(name).is_some() || self.has_extra(name)
    }

    /// Whether this key is a kind of the registry.
    pub(super) fn has_extra(&self, name: &str) -> bool {
        match self.extra {
            Extra::None => false,
            Extra::Faults => crate::faults::by_name(name).is_some(),
            Extra::Expectations => crate::oracles::by_name(name).is_some(),
        }
    }

    /// Names of registry kinds that are keys here.
    pub(super) fn extra_names(&self) -> Vec<&'static str> {
        match self.extra {
            Extra::None => Vec::new(),
            Extra::Faults => crate::faults::ALL.iter().map(|kind| kind.name()).collect(),
            Extra::Expectations => crate::oracles::ALL.iter().map(|kind| kind.name()).collect(),
        }
    }
}

/// Words that YAML 1.1 takes for booleans or nothing; no key or word of ours is one, and no name in a plan may be.
pub(super) fn yaml_1_1_word(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | "~" | ""
    )
}
