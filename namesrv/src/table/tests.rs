use super::*;

const LIMITS: TableLimits = TableLimits { groups: 2, members: 3, topics: 2 };

fn member(id: i64, addr: &str, term: i64) -> Registration {
    let topic = TopicConfig { topic_name: "T".into(), ..TopicConfig::default() };
    Registration {
        cluster: "c".into(),
        broker: "b".into(),
        id,
        addr: addr.into(),
        ha_addr: format!("ha-{addr}"),
        version: DataVersion { state_version: term, ..DataVersion::default() },
        topics: [("T".to_owned(), topic)].into(),
        others: Others::Gone,
        may_stand_in: false,
        timeout_ms: 30,
    }
}

fn addrs(table: &Table) -> Vec<(i64, String)> {
    table
        .route("T")
        .map_or(Vec::new(), |route| route.broker_datas[0].broker_addrs.clone().into_iter().collect())
}

fn pairs(expected: &[(i64, &str)]) -> Vec<(i64, String)> {
    expected.iter().map(|(id, addr)| (*id, (*addr).to_owned())).collect()
}

/// A leader and two others, each registered on the connection that has its number.
fn three() -> Table {
    let mut table = Table::new(LIMITS);
    for (connection, id, addr) in [(1, 0, "one"), (2, 2, "two"), (3, 3, "three")] {
        table.register(0, connection, member(id, addr, 5)).unwrap();
    }
    table
}

#[test]
fn a_new_leader_replaces_the_old_one_at_once() {
    let mut table = three();
    assert_eq!(addrs(&table), pairs(&[(0, "one"), (2, "two"), (3, "three")]));
    table.register(1, 2, member(0, "two", 6)).unwrap();
    assert_eq!(addrs(&table), pairs(&[(0, "two"), (3, "three")]));
    table.register(1, 1, member(1, "one", 6)).unwrap();
    assert_eq!(addrs(&table), pairs(&[(0, "two"), (1, "one"), (3, "three")]));
    assert_eq!(table.leader("b"), Some(Leader { addr: "two".into(), ha_addr: "ha-two".into() }));
}

#[test]
fn a_leader_of_an_older_term_is_refused_and_changes_nothing() {
    let mut table = three();
    table.register(1, 2, member(0, "two", 6)).unwrap();
    let before = addrs(&table);
    let error = table.register(2, 1, member(0, "one", 5)).unwrap_err();
    assert!(matches!(error, TableError::StaleTerm { found: 5, known: 6, .. }), "{error}");
    assert_eq!(addrs(&table), before);
    // Even when the newer one follows again; but not when it is gone.
    table.register(3, 2, member(2, "two", 7)).unwrap();
    assert!(table.register(3, 1, member(0, "one", 5)).is_err());
    table.register(4, 2, member(0, "two", 8)).unwrap();
    table.connection_closed(2);
    table.register(5, 1, member(0, "one", 5)).unwrap();
    assert_eq!(addrs(&table), pairs(&[(0, "one"), (3, "three")]));
}

#[test]
fn a_follower_says_nothing_of_the_leaders_term() {
    let mut table = Table::new(LIMITS);
    table.register(0, 1, member(2, "two", 9)).unwrap();
    table.register(0, 2, member(0, "one", 5)).unwrap();
    assert_eq!(addrs(&table), pairs(&[(0, "one"), (2, "two")]));
}

#[test]
fn what_a_hung_name_server_reads_late_does_not_undo_what_is_newer() {
    let at = |id, term, timestamp| {
        let version = DataVersion { state_version: term, timestamp, ..DataVersion::default() };
        Registration { version, ..member(id, "two", term) }
    };
    let mut table = three();
    // While it hung, the member gave the connection up, was elected, and registered on a new one.
    table.register(1, 9, at(0, 6, 100)).unwrap();
    for late in [at(2, 5, 50), at(2, 6, 99)] {
        let error = table.register(2, 2, late).unwrap_err();
        assert!(matches!(error, TableError::Stale { .. }), "{error}");
        assert_eq!(addrs(&table), pairs(&[(0, "two"), (3, "three")]));
    }
    table.connection_closed(2);
    assert_eq!(addrs(&table), pairs(&[(0, "two"), (3, "three")]));
    table.register(3, 9, at(0, 6, 100)).unwrap();
    table.register(4, 9, at(2, 7, 0)).unwrap();
    assert_eq!(addrs(&table), pairs(&[(2, "two"), (3, "three")]));
}

#[test]
fn only_a_leader_says_which_topics_there_are() {
    let mut table = Table::new(LIMITS);
    table.register(0, 1, member(2, "two", 5)).unwrap();
    assert_eq!(table.route("T"), None);
    table.register(0, 2, member(0, "one", 5)).unwrap();
    assert_eq!(addrs(&table), pairs(&[(0, "one"), (2, "two")]));
    let mut other = member(0, "one", 5);
    other.topics = [("U".to_owned(), TopicConfig::default())].into();
    table.register(1, 2, other).unwrap();
    assert_eq!(table.route("T"), None, "it was deleted");
    assert_eq!(table.topics(None, |_| true), ["U".to_owned()].into());
    assert_eq!(table.topics(Some("other"), |_| true).len(), 0);
}

/// The leader's changes since the registration of one term, told in another.
fn changes(since: i64, term: i64, put: &[&str], deleted: &[&str]) -> Registration {
    let version = DataVersion { state_version: since, ..DataVersion::default() };
    let deleted = deleted.iter().map(|&topic| topic.to_owned()).collect();
    Registration { topics: topics(put), others: Others::Since(version, deleted), ..member(0, "one", term) }
}

fn topics(names: &[&str]) -> BTreeMap<String, TopicConfig> {
    names.iter().map(|&name| (name.to_owned(), TopicConfig::default())).collect()
}

fn known(table: &Table) -> Vec<String> {
    table.topics(None, |_| true).into_iter().collect()
}

#[test]
fn changes_are_put_beside_what_is_known() {
    let mut table = three();
    table.register(1, 1, changes(5, 6, &["U"], &[])).unwrap();
    assert_eq!(known(&table), ["T", "U"]);
    assert_eq!(table.route("T").unwrap().broker_datas[0].broker_addrs.len(), 3);
    table.register(20, 1, changes(6, 7, &[], &["T", "never"])).unwrap();
    assert_eq!((known(&table), table.version("b", "one").unwrap().state_version), (vec!["U".to_owned()], 7));
    table.expire(31);
    assert_eq!(table.leader("b").map(|leader| leader.addr).as_deref(), Some("one"), "it lives");
    let full = table.register(21, 1, changes(7, 8, &["V", "W"], &[])).unwrap_err();
    assert!(matches!(full, TableError::Full { .. }));
    table.register(21, 1, changes(7, 8, &["U", "V"], &[])).unwrap();
    assert_eq!(known(&table), ["U", "V"]);
}

#[test]
fn changes_to_what_is_not_known_are_refused_and_change_nothing() {
    let refused = |table: &mut Table, registration| {
        let before = known(table);
        let error = table.register(1, 1, registration).unwrap_err();
        assert!(matches!(error, TableError::UnknownBefore { .. }), "{error}");
        assert_eq!(known(table), before);
    };
    refused(&mut Table::new(LIMITS), changes(5, 6, &["U"], &[]));
    let mut table = three();
    refused(&mut table, changes(4, 6, &["U"], &[]));
    refused(&mut table, Registration { addr: "four".into(), ..changes(5, 6, &["U"], &[]) });
    table.register(1, 1, member(1, "one", 5)).unwrap();
    refused(&mut table, changes(5, 6, &["U"], &[]));
    table.register(1, 1, member(0, "one", 6)).unwrap();
    table.connection_closed(1);
    refused(&mut table, changes(6, 6, &["U"], &[]));
}

#[test]
fn a_broker_that_does_not_say_what_of_the_others_lets_them_stay() {
    let mut table = three();
    let unknown =
        |names| Registration { topics: topics(names), others: Others::Unknown, ..member(0, "one", 5) };
    table.register(1, 1, unknown(&["U"])).unwrap();
    assert_eq!(known(&table), ["T", "U"]);
    assert!(matches!(table.register(1, 1, unknown(&["V"])).unwrap_err(), TableError::Full { .. }));
    table.register(1, 1, Registration { others: Others::Gone, ..unknown(&["V"]) }).unwrap();
    assert_eq!(known(&table), ["V"]);
}

#[test]
fn silence_and_closed_connections_end_registrations() {
    let mut table = three();
    table.register(20, 2, member(2, "two", 5)).unwrap();
    assert!(table.touch(25, "b", "three"));
    assert!(!table.touch(25, "b", "nobody"));
    table.expire(30);
    assert_eq!(addrs(&table).len(), 3, "the limit is not over yet");
    table.expire(31);
    assert_eq!(addrs(&table), pairs(&[(2, "two"), (3, "three")]));
    table.register(40, 9, member(3, "three", 5)).unwrap();
    table.connection_closed(3);
    assert_eq!(addrs(&table).len(), 2, "it has registered on another connection since");
    table.connection_closed(9);
    table.connection_closed(2);
    assert_eq!((table.route("T"), table.cluster_info()), (None, ClusterInfo::default()));
}

#[test]
fn only_the_member_itself_unregisters() {
    let mut table = three();
    table.unregister("b", 0, "two");
    table.unregister("b", 2, "one");
    table.unregister("x", 0, "one");
    assert_eq!(addrs(&table).len(), 3);
    table.unregister("b", 0, "one");
    assert_eq!(addrs(&table), pairs(&[(2, "two"), (3, "three")]));
}

#[test]
fn a_member_that_may_stands_in_for_a_missing_leader() {
    let mut table = three();
    table.register(0, 2, Registration { may_stand_in: true, ..member(2, "two", 5) }).unwrap();
    assert_eq!(addrs(&table), pairs(&[(0, "one"), (2, "two"), (3, "three")]));
    table.connection_closed(1);
    assert_eq!(addrs(&table), pairs(&[(0, "two"), (3, "three")]));
    assert_eq!(table.leader("b"), None, "it is not the leader for that");
    table.register(1, 3, member(0, "three", 6)).unwrap();
    assert_eq!(addrs(&table), pairs(&[(0, "three"), (2, "two")]));
}

#[test]
fn wiping_keeps_producers_away_until_it_is_undone() {
    let mut table = three();
    let perm = |table: &Table| table.route("T").unwrap().queue_datas[0].perm;
    assert_eq!((table.wipe_write("b", true), perm(&table)), (1, perm::READ));
    table.register(1, 1, member(0, "one", 5)).unwrap();
    assert_eq!(perm(&table), perm::READ, "a registration does not undo it");
    assert_eq!((table.wipe_write("b", false), perm(&table)), (1, perm::READ | perm::WRITE));
    assert_eq!(table.wipe_write("unknown", true), 0);
}

#[test]
fn deleted_topics_are_gone_in_the_cluster_named() {
    let mut table = three();
    table.delete_topic("T", Some("other"));
    assert!(table.route("T").is_some());
    table.delete_topic("T", Some("c"));
    assert_eq!(table.route("T"), None);
}

#[test]
fn everything_has_a_limit() {
    let mut table = three();
    let full = |error: TableError| matches!(error, TableError::Full { .. });
    assert!(full(table.register(0, 4, member(4, "four", 5)).unwrap_err()));
    let group = |name: &str| Registration { broker: name.into(), ..member(0, "x", 1) };
    table.register(0, 5, group("b2")).unwrap();
    assert!(full(table.register(0, 5, group("b3")).unwrap_err()));
    let mut many = member(0, "one", 5);
    many.topics = (0..3).map(|n| (format!("t{n}"), TopicConfig::default())).collect();
    assert!(full(table.register(0, 1, many).unwrap_err()));
}

#[test]
fn nonsense_is_refused_by_name() {
    let mut table = three();
    let mut refuse = |registration| table.register(0, 1, registration).unwrap_err();
    let negative = refuse(member(-1, "one", 5));
    assert_eq!(negative, TableError::NegativeId(-1));
    let cluster = refuse(Registration { cluster: "x".into(), ..member(0, "one", 5) });
    assert!(matches!(cluster, TableError::Cluster { .. }));
    assert!(matches!(refuse(member(0, "", 5)), TableError::Name { len: 0, .. }));
    assert!(matches!(refuse(member(0, &"x".repeat(256), 5)), TableError::Name { len: 256, .. }));
    for count in [-1, i32::MAX] {
        let mut queues = member(0, "one", 5);
        queues.topics.get_mut("T").unwrap().write_queue_nums = count;
        assert!(matches!(refuse(queues), TableError::Queues { found, .. } if found == count));
    }
    assert_eq!(addrs(&table).len(), 3);
}

#[test]
fn versions_and_members_are_told() {
    let table = three();
    assert_eq!(table.version("b", "two").unwrap().state_version, 5);
    assert_eq!(table.version("b", "nobody"), None);
    assert_eq!(table.members("b").unwrap().broker_addrs.len(), 3);
    assert_eq!(table.members("other"), None);
    assert_eq!(table.any_addr().as_deref(), Some("one"));
    let info = table.cluster_info();
    assert_eq!(info.cluster_addr_table["c"], ["b".to_owned()].into());
    assert_eq!(info.broker_addr_table["b"].broker_addrs[&0], "one");
}
