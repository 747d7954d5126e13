//! Hooks for planted bugs, by which the simulation is itself tested: it must find each.
//!
//! A hook is one line, `mutant!("name" => what goes wrong)`, at the place where the mistake would be made. Without the feature
//! `mutants` it expands to nothing. With it, nothing goes wrong until [`select`] is called; only the simulation does. It lies in the
//! lowest crate so that all can use it; what the names mean is in the simulation's registry. Must never: be on by default.

/// `mutant!("name" => statement)`: the statement, if that bug is planted.
#[cfg(feature = "mutants")]
#[macro_export]
macro_rules! mutant {
    ($name:literal => $bug:expr) => {
        if $crate::mutant::is_active($name) {
            $bug;
        }
    };
}

/// `mutant!("name" => statement)`: nothing, in this build.
#[cfg(not(feature = "mutants"))]
#[macro_export]
macro_rules! mutant {
    ($name:literal => $bug:expr) => {};
}

#[cfg(feature = "mutants")]
mod active {
    use std::cell::Cell;

    thread_local! {
        /// A run of the simulation is one thread, so that runs beside it are not infected.
        static ACTIVE: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Plants a bug, or none, on this thread.
    pub fn select(name: Option<&'static str>) {
        ACTIVE.set(name);
    }

    pub fn is_active(name: &str) -> bool {
        ACTIVE.get() == Some(name)
    }
}

#[cfg(feature = "mutants")]
pub use active::{is_active, select};
