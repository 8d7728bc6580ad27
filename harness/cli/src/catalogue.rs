//! What is bundled: roles, releases, the wire dialect, the default network id. Core and harness know none of it.

use tweedledum_core::plan::model::{Release, Role};
use tweedledum_core::plan::{self, Catalogue};
use tweedledum_core::time::Calendar;

use crate::commands::Failure;

/// Network id of the testnet whose incident is replayed.
pub(crate) const NETID: u32 = 116;

/// What plans may name without declaring it.
pub(crate) fn catalogue() -> Catalogue {
    let release = |base: &tweedledum_nodes::releases::Base| Release {
        name: base.name.to_owned(),
        base: Some(base.name.to_owned()),
        without: std::collections::BTreeSet::new(),
        bin: None,
    };
    Catalogue {
        roles: tweedledum_nodes::ROLES.to_owned(),
        releases: tweedledum_nodes::releases::BASES
            .iter()
            .map(release)
            .collect(),
        switches: tweedledum_nodes::releases::SWITCHES
            .iter()
            .map(|switch| switch.name.to_owned())
            .collect(),
    }
}

/// Tells a period of an epoch from any that is given in layers, since none has so many.
pub(crate) const LONG_EPOCHS: Calendar = Calendar {
    layer_ns: 1_000_000_000,
    layers_per_epoch: 10_000,
};

/// The bundled roles, read under [`LONG_EPOCHS`]. They are part of this executable, so a mistake in them is a bug, which a test finds.
pub(crate) fn roles() -> Result<Vec<Role>, Failure> {
    let roles = plan::bundled_roles(&catalogue(), &LONG_EPOCHS).map_err(Failure::Substrate)?;
    Ok(roles.into_values().collect())
}
