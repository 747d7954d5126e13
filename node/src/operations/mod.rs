//! Carries out this node's sub-operations through the container engine, and sees to the operations of the groups that it leads.
//!
//! [`dispatcher`], on a group's leader, offers nodes their work; [`executor`] claims what this node was offered ([`offers`]) and carries it
//! out. Level-triggered: offers are made from the replicated state, again and again, so that a node that restarts, and a
//! leader that takes over, pick up by themselves. [`upkeeper`], on a group's leader, gives work of nodes that are gone to others, and replaces
//! copies of runs that are kept up. Must never: start work without a lease, or go on with it when the lease has ended.

mod attempt;
mod breaker;
mod candidates;
mod containers;
mod dispatcher;
mod executor;
mod farewells;
mod intake;
mod lately;
mod lease;
mod offers;
mod upkeeper;

pub(crate) use candidates::{candidate, images_of, open_parts, unable};
pub(crate) use dispatcher::Dispatcher;
pub(crate) use executor::Executor;
pub(crate) use farewells::Farewells;
pub(crate) use intake::Intake;
pub(crate) use lately::{Lately, Ticket};
pub(crate) use offers::{OFFERED_MAX, Offer, Offers};
pub(crate) use upkeeper::Upkeeper;
