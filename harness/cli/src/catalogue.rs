//! What is bundled: roles, releases, the wire dialect, the default network id. Core and harness know none of it.

use tweedledum_core::plan::model::Role;
use tweedledum_core::plan::{self, BundledRelease, Catalogue};

use crate::commands::Failure;

/// Network id of the testnet whose incident is replayed.
pub(crate) const NETID: u32 = 116;

/// What plans may name without declaring it.
pub(crate) fn catalogue() -> Catalogue<'static> {
    Catalogue {
        roles: tweedledum_nodes::ROLES,
        releases: tweedledum_nodes::releases::BASES
            .iter()
            .map(|base| BundledRelease { name: base.name, base: base.name, without: &[] })
            .collect(),
        switches: tweedledum_nodes::releases::SWITCHES.iter().map(|switch| switch.name).collect(),
    }
}

/// The bundled roles. They are part of this executable, so a mistake in them is a bug that a test finds.
pub(crate) fn roles() -> Result<Vec<Role>, Failure> {
    plan::bundled_roles(&catalogue()).map_err(|diagnostics| Failure::Plan {
        rendered: plan::render(&diagnostics, "the bundled roles", tweedledum_nodes::ROLES, false),
    })
}
