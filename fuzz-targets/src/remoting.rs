//! The wire protocol: frames, headers, bodies, and what is made of them.

use bytes::{Bytes, BytesMut};
use raftmq_remoting::body::*;
use raftmq_remoting::encode::encode_command;
use raftmq_remoting::fastjson::{BodyError, parse, to_vec};
use raftmq_remoting::frame::{self, FRAME_LEN_MAX};
use raftmq_remoting::header::*;
use raftmq_remoting::{Command, Ext, HeaderError, RawFrame, Serialization};

use crate::input::Input;

/// Takes frames off a connection, which brings the bytes in two pieces.
pub(crate) fn frames(data: &[u8]) {
    for command in commands(data) {
        check_command(&command);
    }
}

fn commands(data: &[u8]) -> Vec<Command> {
    let mut commands = Vec::new();
    let (first, rest) = data.split_at(data.len() / 2);
    let mut buffer = BytesMut::from(first);
    for more in [rest, &[]] {
        loop {
            frame::missing(&buffer);
            match frame::decode(&mut buffer, FRAME_LEN_MAX) {
                Ok(Some(frame)) => commands.extend(Command::decode(frame)),
                Ok(None) => break,
                Err(_) => return commands,
            }
        }
        buffer.extend_from_slice(more);
    }
    commands
}

/// Written again it is the same; and each header that it may be is read.
fn check_command(command: &Command) {
    let mut out = BytesMut::new();
    if encode_command(command, &mut out).is_ok() {
        let frame = frame::decode(&mut out, FRAME_LEN_MAX).expect("it was written").expect("as a whole");
        let again = Command::decode(frame).expect("and can be read");
        // The binary form has no room for empty values, and a code of 16 bits.
        if command.serialization == Serialization::Json {
            let distinct: Ext = command
                .ext
                .iter()
                .map(|(key, value)| (key.to_owned(), value.into_owned()))
                .fold(Ext::new(), |mut ext, (key, value)| {
                    ext.set(&key, &value);
                    ext
                });
            for (key, value) in distinct.iter() {
                assert_eq!(again.ext.get(key), Some(value), "{key}");
            }
        }
        assert_eq!(
            (again.opaque, again.flag, again.body),
            (command.opaque, command.flag, command.body.clone())
        );
    }
    for read in HEADERS {
        let Ok(fields) = read(command) else { continue };
        let again = Command { ext: fields.clone(), ..command.clone() };
        assert_eq!(read(&again), Ok(fields));
    }
}

type Read = fn(&Command) -> Result<Ext, HeaderError>;

macro_rules! headers {
    ($($ty:ident)*) => { &[$(|command| Ok($ty::decode(command)?.to_ext()),)*] };
}

/// Reading every type of header, and writing it again.
const HEADERS: &[Read] = headers! {
    BrokerConsumeStatsHeader CloneOffsetsHeader ClusterHeader ConsumeStatsHeader ConsumerClientHeader ConsumerGroupHeader
    ConsumerStatusHeader CreateTopicHeader DeleteGroupHeader DeleteTopicRouteHeader EarliestStoreTimeResponse
    GroupConfigHeader GroupTopicHeader HeartbeatResponse OffsetResponse ProducerGroupHeader PullHeader PullResponse
    QueryConsumerOffsetHeader QueryMessageHeader QueryMessageResponse QuerySubscriptionHeader QueueHeader
    RegisterBrokerHeader RegisterBrokerResponse ResetOffsetHeader RouteHeader SearchOffsetHeader SendBackHeader TopicHeader
    UnregisterBrokerHeader UnregisterClientHeader UpdateConsumerOffsetHeader ViewMessageHeader
};

fn header(serialization: Serialization, data: &[u8]) {
    let frame = RawFrame { serialization, header: Bytes::copy_from_slice(data), body: Bytes::new() };
    let Ok(command) = Command::decode(frame) else { return };
    check_command(&command);
    let _ = SendResponse::decode(&command);
    for code in [10, 310] {
        let send = Command { code, ..command.clone() };
        let Ok(header) = SendHeader::decode(&send) else { continue };
        let ext = if code == 10 { header.to_ext_v1() } else { header.to_ext() };
        assert_eq!(SendHeader::decode(&Command { ext, ..send.clone() }), Ok(header));
    }
}

/// Reads bytes as a header in JSON.
pub(crate) fn json_header(data: &[u8]) {
    header(Serialization::Json, data);
}

/// Reads bytes as a header in the binary form.
pub(crate) fn binary_header(data: &[u8]) {
    header(Serialization::RocketMq, data);
}

type ReadBody = fn(&[u8]) -> Result<Vec<u8>, BodyError>;

macro_rules! bodies {
    ($($ty:ident $(. $to_json:ident)?,)*) => { &[$(|text| bodies!(@ text $ty $($to_json)?)),*] };
    (@ $text:ident $ty:ident) => { to_vec(&parse::<$ty>($text)?) };
    (@ $text:ident $ty:ident $to_json:ident) => { parse::<$ty>($text)?.$to_json() };
}

/// Reading every type of body, and writing it again.
const BODIES: &[ReadBody] = bodies! {
    CheckClientRequest, ClientStatus.to_json, ClusterInfo, ConsumeMessageDirectlyResult, ConsumeStats.to_json,
    ConsumeTimeSpan, ConsumerConnection, ConsumerIdList, DataVersion, GroupList, HeartbeatData, KvTable, LockBatchRequest,
    LockBatchResponse, OffsetTable.to_json, ProducerConnection, ProducerTable, QuerySubscription, RegisterBrokerBody,
    SubscriptionGroupConfig, SubscriptionGroupList, SubscriptionGroupWrapper, TopicConfig, TopicConfigList,
    TopicConfigSerializeWrapper, TopicList, TopicRouteData, TopicStatsTable.to_json,
};

/// Reads bytes behind the first as a body, whose type the first chooses.
pub(crate) fn bodies(data: &[u8]) {
    let mut input = Input(data);
    let read = BODIES[usize::from(input.u8()) % BODIES.len()];
    if let Ok(written) = read(input.0) {
        let again = read(&written).expect("it was written");
        assert_eq!(String::from_utf8(again), String::from_utf8(written));
    }
    let _ = parse::<RunningSubscriptions>(input.0);
}

/// Takes frames off a connection, and answers them as a name server.
pub(crate) fn name_server(data: &[u8]) {
    raftmq_namesrv::fuzzing::requests(commands(data));
}

/// Takes frames off a connection, and reads each as the answer to a pull.
pub(crate) fn pull_answer(data: &[u8]) {
    commands(data).into_iter().for_each(raftmq_client::fuzzing::pull_answer);
}

/// Reads bytes behind the first as a compressed body; the first says in which way.
pub(crate) fn compressed_body(data: &[u8]) {
    let mut input = Input(data);
    let way = i32::from(input.u8() % 5) << 8;
    raftmq_client::fuzzing::body(way, input.0);
}
