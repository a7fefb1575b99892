//! Pulling: what a consumer may see, whether its pull waits, its answer.
//!
//! | module | what it is |
//! |---|---|
//! | `request` | what a pull asks for and what it may see |
//! | `scan` | what it finds in its queue |
//! | `waiting` | pulls that wait until there are messages for them |
//! | `holds` | the table of those |

mod holds;
mod request;
mod scan;
mod waiting;

pub use request::{Pull, Pulled, Subscriptions, Wanted};
pub use scan::{Outcome, PullStatus};
pub use waiting::{Pulls, Served, Waiter};
