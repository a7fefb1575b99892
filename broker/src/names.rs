//! Names of groups.

use raftmq_message::topic::{GROUP_NAME_LEN_MAX, retry_topic, validate_group};

use crate::error::Error;

/// Checks a group's name, room for the prefix of its retry topic included.
pub fn check_group_name(name: &str) -> Result<(), Error> {
    validate_group(name)?;
    if retry_topic(name).len() > GROUP_NAME_LEN_MAX {
        return Err(Error::GroupNameTooLong(name.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_to_leave_room_for_its_retry_topic() {
        assert!(check_group_name(&"g".repeat(248)).is_ok());
        assert!(check_group_name(&"g".repeat(249)).is_err());
        assert!(check_group_name("a b").is_err());
    }
}
