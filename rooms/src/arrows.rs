//! Which crates name one that they may not.

use crate::workspace::Package;

/// What a crate of the workspace may name of the others.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// Its folder.
    pub name: &'a str,
    /// Whom it may depend on: rooms that stand above it in the table.
    pub knows: &'a [&'a str],
    /// Whom its tests may depend on besides.
    pub tests_know: &'a [&'a str],
}

/// What contradicts the table, each in a sentence. `owned` are crates from elsewhere, each with the one room that may
/// name it.
pub fn wrong_arrows(packages: &[Package], rooms: &[Room<'_>], owned: &[(&str, &str)]) -> Vec<String> {
    let mut wrong = wrong_rooms(packages, rooms);
    for package in packages {
        let Some(room) = rooms.iter().find(|room| room.name == package.name) else {
            wrong.push(format!("{} is not in the table of rooms", package.name));
            continue;
        };
        let is_room = |name: &str| packages.iter().any(|package| package.name == name);
        let may = |name: &str| !is_room(name) || room.knows.contains(&name);
        for name in package.dependencies.iter().filter(|name| !may(name)) {
            wrong.push(format!("{} names {name}, which it may not know", package.name));
        }
        for name in package.dev_dependencies.iter().filter(|name| !may(name)) {
            if !room.tests_know.contains(&name.as_str()) {
                wrong.push(format!("the tests of {} name {name}, which they may not know", package.name));
            }
        }
        for (name, owner) in owned {
            let mut all = package.dependencies.iter().chain(&package.dev_dependencies);
            if package.name != *owner && all.any(|other| other == name) {
                wrong.push(format!("{} names {name}, which only {owner} may know", package.name));
            }
        }
    }
    wrong
}

/// What is wrong with the table itself: a room that is not there, or an arrow that does not point down.
fn wrong_rooms(packages: &[Package], rooms: &[Room<'_>]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (index, room) in rooms.iter().enumerate() {
        if !packages.iter().any(|package| package.name == room.name) {
            wrong.push(format!("{} is in the table of rooms and not in the workspace", room.name));
        }
        for name in room.knows {
            if !rooms[..index].iter().any(|below| below.name == *name) {
                wrong.push(format!("the arrow from {} to {name} does not point down", room.name));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str], dev_dependencies: &[&str]) -> Package {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let (dependencies, dev_dependencies) = (owned(dependencies), owned(dev_dependencies));
        Package { name: name.to_owned(), dependencies, dev_dependencies, roots: Vec::new() }
    }

    const ROOMS: [Room<'_>; 3] = [
        Room { name: "message", knows: &[], tests_know: &[] },
        Room { name: "raft", knows: &[], tests_know: &["message"] },
        Room { name: "src", knows: &["raft"], tests_know: &[] },
    ];

    #[test]
    fn what_the_table_allows_is_right() {
        let packages = [
            package("message", &["bytes"], &[]),
            package("raft", &["openraft"], &["message"]),
            package("src", &["raft"], &["raft"]),
        ];
        assert_eq!(wrong_arrows(&packages, &ROOMS, &[("openraft", "raft")]), [""; 0]);
    }

    #[test]
    fn a_forbidden_arrow_is_told_with_both_ends() {
        let packages = [
            package("message", &["src"], &["openraft"]),
            package("raft", &["message"], &["src"]),
            package("src", &["message"], &[]),
        ];
        let told = [
            "message names src, which it may not know",
            "message names openraft, which only raft may know",
            "raft names message, which it may not know",
            "the tests of raft name src, which they may not know",
            "src names message, which it may not know",
        ];
        assert_eq!(wrong_arrows(&packages, &ROOMS, &[("openraft", "raft")]), told);
    }

    #[test]
    fn the_table_names_each_room_once_it_is_there_and_points_down() {
        let upward = [
            Room { name: "message", knows: &["src"], tests_know: &[] },
            Room { name: "src", knows: &[], tests_know: &[] },
        ];
        let packages = [package("src", &[], &[]), package("raft", &[], &[])];
        let told = [
            "message is in the table of rooms and not in the workspace",
            "the arrow from message to src does not point down",
            "raft is not in the table of rooms",
        ];
        assert_eq!(wrong_arrows(&packages, &upward, &[]), told);
    }
}
