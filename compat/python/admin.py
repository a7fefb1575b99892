"""The requests that the cases need and this client does not have, as frames with a JSON header."""

import json
import socket
import struct

UPDATE_AND_CREATE_TOPIC = 17
GET_ROUTEINFO_BY_TOPIC = 105
UPDATE_AND_CREATE_SUBSCRIPTION_GROUP = 200
ANSWER_SECONDS = 10


def call(address, code, fields, body=b""):
    said = answer_to(address, code, fields, body)
    if said["code"] != 0:
        raise RuntimeError(f"admin request {code}: {said['code']} {said.get('remark')}")


def answer_to(address, code, fields, body=b""):
    """The header of the answer."""
    host, port = address.rsplit(":", 1)
    header = {"code": code, "language": "PYTHON", "version": 493, "opaque": 1, "flag": 0, "extFields": fields}
    encoded = json.dumps(header).encode("utf-8")
    frame = struct.pack(">I", len(encoded)) + encoded + body
    with socket.create_connection((host, int(port)), ANSWER_SECONDS) as connection:
        connection.sendall(struct.pack(">I", len(frame)) + frame)
        stream = connection.makefile("rb")
        (length,) = struct.unpack(">I", stream.read(4))
        answer = stream.read(length)
    (header_length,) = struct.unpack(">I", answer[:4])
    return json.loads(answer[4 : 4 + (header_length & 0xFFFFFF)])


def make_topic(leader, topic, queues):
    call(leader, UPDATE_AND_CREATE_TOPIC, {
        "topic": topic, "defaultTopic": "TBW102", "readQueueNums": str(queues), "writeQueueNums": str(queues),
        "perm": "6", "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
    })


def has_route(name_server, topic):
    return answer_to(name_server, GET_ROUTEINFO_BY_TOPIC, {"topic": topic})["code"] == 0


def allow_retries(leader, group, times):
    """This client has no setting for the retries of a message: the group's own says how many there are."""
    body = {"groupName": group, "consumeEnable": True, "consumeFromMinEnable": True, "consumeBroadcastEnable": True,
            "retryQueueNums": 1, "retryMaxTimes": times, "brokerId": 0, "whichBrokerWhenConsumeSlowly": 1}
    call(leader, UPDATE_AND_CREATE_SUBSCRIPTION_GROUP, {}, json.dumps(body).encode("utf-8"))
