//! The process substrate, shared tier: nodes are ordinary processes on a locked block of loopback
//! addresses, held by pidfd and killed with the run.
//!
//! Reading order: [`identity`] (who a process is), `packet` (messages that carry descriptors),
//! `launch` (the only place that starts processes), [`shim`] (what runs in the child before the
//! node does), [`spawner`] and [`node`] (what the controller uses), [`family`] (who else is of a node), [`remains`]
//! (how everything is removed), `holders` (who holds an address), [`block`] (addresses), [`limits`], [`group`] (what limits of nodes are put on),
//! [`disk`] (caps on data directories), [`ground`] and `life` (all of it behind the seam of [`substrate`](super)).
//!
//! No descriptor is ever inheritable: a child gets one socket as its standard input and everything
//! else through that socket, so nothing can leak into a child that is started at the same moment.
//! There is no `pre_exec` either, since it forces a fork of the whole controller.
//!
//! Link faults and clock skew are not possible in this tier.

pub mod block;
pub mod disk;
pub mod family;
pub mod ground;
pub mod group;
pub(crate) mod holders;
pub mod identity;
pub(crate) mod launch;
pub(crate) mod life;
pub mod limits;
pub mod node;
pub(crate) mod packet;
pub mod probe;
pub mod remains;
pub mod shim;
pub mod spawner;
pub(crate) mod sys;
pub mod watched;

pub use crate::substrate::NodePipes;
pub use block::{AddressBlock, AddressBlocks, BlockError};
pub use disk::{DiskAccount, DiskError, DiskStatus, DiskSupervisor};
pub use family::Member;
pub use ground::ProcessGround;
pub use identity::{Nonce, ProcStat, ProcessId};
pub use launch::OwnExecutable;
pub use limits::{let_files_grow, raise_nofile};
pub use node::{Exit, ExitKind, NodeProcess, NodeSignal, Stopped, StoppedBy};
pub use probe::{Finished, ProbeError};
pub use remains::{KillReport, Leftover};
pub use shim::{ExecError, ExecStep, shim_main};
pub use spawner::{NodeSpec, Prepared, Program, SpawnError, Spawner};
