"""What a stock Python client sees of a node: client.py ADDR FOLDER [FRONT]

ADDR is where the node serves gRPC. FOLDER is what its group `blobs` loads from; the client puts the
files that it asks for there. With FRONT, ADDR is the node's express door, which has unary calls alone,
and FRONT is its front door. It prints a line for each check and for each call that had to fail: first
of what both doors have and then, below ---, of what this one has alone. It exits with 1 if a check has failed.
"""

import os
import queue
import sys
from pathlib import Path

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

PROTO = Path(__file__).resolve().parents[2] / "proto"
sys.path.append(str(PROTO))
cache_pb2, cache_pb2_grpc = grpc.protos_and_services("corecache/v1/cache.proto")

GROUP = "blobs"
TIMEOUT_S = 20
UNARY_LIMIT_BYTES = 4 * 1024 * 1024
# What the encoded reply has before a value of some MiB: a tag, and a length of four bytes.
FRAME_HEAD_BYTES = 5


class Node:
    def __init__(self, addr, folder, front=None):
        self.front = front
        # A proxy that the environment names is not for a node on this machine.
        self.channel = grpc.insecure_channel(addr, [("grpc.enable_http_proxy", 0)])
        grpc.channel_ready_future(self.channel).result(TIMEOUT_S)
        self.cache = cache_pb2_grpc.CacheStub(self.channel)
        self.folder = os.fsencode(folder)

    def put(self, key, value):
        """Makes `value` the blob of `key` at the origin, and returns it."""
        path = os.path.join(self.folder, os.fsencode(key))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(value)
        return value

    def get(self, key, group=GROUP):
        request = cache_pb2.GetRequest(group=group, key=key)
        return self.cache.Get(request, timeout=TIMEOUT_S).value

    def read(self, key, offset=0, length=0):
        """Reads a value or a part of it: the size of the value, and the part."""
        request = cache_pb2.ReadRequest(group=GROUP, key=key, offset=offset, length=length)
        first, *rest = self.cache.Read(request, timeout=TIMEOUT_S)
        return first.value_bytes, b"".join(chunk.data for chunk in (first, *rest))

    def get_raw(self, key):
        """Gets a key of any bytes, as a client does that declares the field as `bytes`."""
        get = self.channel.unary_unary(
            "/corecache.v1.Cache/Get",
            request_serializer=lambda request: request,
            response_deserializer=cache_pb2.Value.FromString,
        )
        group = GROUP.encode()
        request = bytes([1 << 3 | 2, len(group)]) + group + bytes([2 << 3 | 2, len(key)]) + key
        return get(request, timeout=TIMEOUT_S).value

    def loads(self):
        """How many loads the group has started so far."""
        stats = self.cache.Stats(cache_pb2.StatsRequest(), timeout=TIMEOUT_S)
        return next(group.counters.loads for group in stats.groups if group.name == GROUP)


def expect_failure(code, call, *arguments, **named):
    """Makes a call that has to fail with `code`, and returns the text of its status."""
    try:
        call(*arguments, **named)
    except grpc.RpcError as error:
        assert error.code() is code, f"{error.code()} instead of {code}: {error.details()}"
        print(f"{code.name}: {error.details()!r}")
        return error.details()
    raise AssertionError(f"answered instead of {code}")


def get_returns_the_bytes_of_the_file(node):
    for key, value in {
        "all-bytes.bin": bytes(range(256)) * 5,
        "one/two/three.txt": b"nested",
        "empty": b"",
        "blåbær.txt": b"a name in UTF-8",
    }.items():
        node.put(key, value)
        for source in ("origin", "memory"):
            assert node.get(key) == value, f"{key}: other bytes from {source}"


def an_unknown_group_and_a_missing_key_are_told_apart(node):
    node.put("here.txt", b"here")
    no_group = expect_failure(grpc.StatusCode.NOT_FOUND, node.get, "here.txt", group="absent")
    no_key = expect_failure(grpc.StatusCode.NOT_FOUND, node.get, "absent")
    assert "absent" in no_group, f"the group is not named: {no_group}"
    assert "absent" in no_key, f"the key is not named: {no_key}"
    assert no_group != no_key, f"the same text for both: {no_key}"


def an_invalid_key_is_refused(node):
    for key in ("", "k" * 4097, "../x", "one/../../x", "/etc/hostname"):
        text = expect_failure(grpc.StatusCode.INVALID_ARGUMENT, node.get, key)
        assert text, f"no word on what is wrong with {key[:20]!r}"


def get_many_answers_each_key_in_order(node):
    first, second = node.put("first.txt", b"1st"), node.put("second.txt", b"2nd")
    keys = ["second.txt", "absent", "first.txt", "../x", "", "second.txt"]
    request = cache_pb2.GetManyRequest(group=GROUP, keys=keys)
    answers = node.cache.GetMany(request, timeout=TIMEOUT_S).answers
    print([answer.failure.message for answer in answers])
    got = [
        answer.value.value if answer.HasField("value") else answer.failure.code
        for answer in answers
    ]
    not_found, invalid = (
        code.value[0] for code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
    )
    assert got == [second, not_found, first, invalid, invalid, second], f"{got}"
    assert "absent" in answers[1].failure.message, f"{answers[1]}"


def get_many_of_an_unknown_group_fails(node):
    request = cache_pb2.GetManyRequest(group="absent", keys=["first.txt"])
    text = expect_failure(
        grpc.StatusCode.NOT_FOUND, node.cache.GetMany, request, timeout=TIMEOUT_S
    )
    assert "absent" in text, text


def fetch_answers_each_key_by_its_id(node):
    first, second = node.put("first.txt", b"1st"), node.put("second.txt", b"2nd")
    requests = [
        cache_pb2.FetchRequest(group=GROUP, keys=["second.txt", "absent"], first_id=10),
        cache_pb2.FetchRequest(group="absent", keys=["first.txt"], first_id=20),
        cache_pb2.FetchRequest(group=GROUP, keys=["", "first.txt"], first_id=30),
    ]
    # The node ends the call by itself once the last key is answered.
    replies = list(node.cache.Fetch(iter(requests), timeout=TIMEOUT_S))
    answers = [answer for reply in replies for answer in reply.answers]
    got = {
        answer.id: answer.value.value if answer.HasField("value") else answer.failure.code
        for answer in answers
    }
    not_found, invalid = (
        code.value[0] for code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
    )
    expected = {10: second, 11: not_found, 20: not_found, 30: invalid, 31: first}
    assert got == expected and len(answers) == len(expected), f"{answers}"


def fetch_is_a_conversation(node):
    value = node.put("conversation.txt", b"said")
    questions = queue.SimpleQueue()
    replies = node.cache.Fetch(iter(questions.get, None), timeout=TIMEOUT_S)
    for number in range(100):
        questions.put(
            cache_pb2.FetchRequest(group=GROUP, keys=["conversation.txt"], first_id=number)
        )
        (answer,) = next(replies).answers
        assert (answer.id, answer.value.value) == (number, value), f"{answer}"
    questions.put(None)
    assert list(replies) == []


def a_key_may_be_any_bytes(node):
    value = node.put(b"not-utf-8-\xff\xfe", b"not UTF-8")
    assert node.get_raw(b"not-utf-8-\xff\xfe") == value
    expect_failure(grpc.StatusCode.NOT_FOUND, node.get_raw, b"absent-\xff\xfe")


def a_value_over_the_unary_limit_is_a_clear_error(node):
    largest = UNARY_LIMIT_BYTES - FRAME_HEAD_BYTES
    value = node.put("largest", b"v" * largest)
    assert node.get("largest") == value

    node.put("too-large", b"v" * (largest + 1))
    text = expect_failure(grpc.StatusCode.OUT_OF_RANGE, node.get, "too-large")
    assert str(UNARY_LIMIT_BYTES) in text, f"the limit is not named: {text}"
    sizes = (str(largest + 1), str(UNARY_LIMIT_BYTES + 1))
    assert any(size in text for size in sizes), f"the size is not named: {text}"
    assert "Read" in text, f"what to do is not said: {text}"


def a_large_value_is_read_in_chunks(node):
    value = node.put("large", bytes(range(251)) * 100_000)
    size = len(value)
    for source in ("origin", "memory"):
        assert node.read("large") == (size, value), f"other bytes from {source}"
    for offset, length in ((0, 1), (1 << 20, 1 << 20), ((1 << 20) - 1, 2), (size - 3, 100)):
        got = node.read("large", offset, length)
        assert got == (size, value[offset : offset + length]), f"{length} from {offset}"
    assert node.read("large", offset=size) == (size, b"")
    text = expect_failure(grpc.StatusCode.OUT_OF_RANGE, node.read, "large", offset=size + 1)
    assert str(size) in text and str(size + 1) in text, f"the numbers are not named: {text}"
    node.put("small", b"small")
    assert node.read("small") == (5, b"small")


def a_thousand_concurrent_calls_of_a_cold_key_make_one_load(node):
    value = node.put("asked-for-by-many", b"once" * 1000)
    before = node.loads()
    request = cache_pb2.GetRequest(group=GROUP, key="asked-for-by-many")
    calls = [node.cache.Get.future(request, timeout=TIMEOUT_S) for _ in range(1000)]
    assert all(call.result().value == value for call in calls)
    loads = node.loads() - before
    assert loads == 1, f"{loads} loads"


def streams_are_at_the_front_door(node):
    request = cache_pb2.ReadRequest(group=GROUP, key="large")
    read = node.cache.Read(request, timeout=TIMEOUT_S)
    text = expect_failure(grpc.StatusCode.UNIMPLEMENTED, list, read)
    assert node.front in text, f"the front door is not named: {text}"
    fetch = node.cache.Fetch(iter([cache_pb2.FetchRequest(group=GROUP)]), timeout=TIMEOUT_S)
    text = expect_failure(grpc.StatusCode.UNIMPLEMENTED, list, fetch)
    assert node.front in text, f"the front door is not named: {text}"


def health_is_serving(node):
    health = health_pb2_grpc.HealthStub(node.channel)
    for service in ("", "corecache.v1.Cache"):
        request = health_pb2.HealthCheckRequest(service=service)
        status = health.Check(request, timeout=TIMEOUT_S).status
        assert status == health_pb2.HealthCheckResponse.SERVING, f"{service!r}: {status}"
    request = health_pb2.HealthCheckRequest(service="absent")
    expect_failure(grpc.StatusCode.NOT_FOUND, health.Check, request, timeout=TIMEOUT_S)


def reflection_is_enough_to_make_a_call(node):
    value = node.put("reflected.txt", b"by reflection alone")
    database = ProtoReflectionDescriptorDatabase(node.channel)
    services = set(database.get_services())
    assert {"corecache.v1.Cache", "grpc.health.v1.Health"} <= services, f"{services}"

    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName("corecache.v1.Cache").methods_by_name["Get"]
    request = message_factory.GetMessageClass(method.input_type)(group=GROUP, key="reflected.txt")
    get = node.channel.unary_unary(
        "/corecache.v1.Cache/Get",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    assert get(request, timeout=TIMEOUT_S).value == value


def reflection_v1_lists_the_same_services(node):
    """The messages of v1 are those of v1alpha; stock packages have stubs for v1alpha alone."""
    listings = []
    for version in ("v1", "v1alpha"):
        info = node.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = info(iter([request]), timeout=TIMEOUT_S)
        listings.append({service.name for service in reply.list_services_response.service})
    assert listings[0] == listings[1] and "corecache.v1.Cache" in listings[0], f"{listings}"


CHECKS = [
    get_returns_the_bytes_of_the_file,
    an_unknown_group_and_a_missing_key_are_told_apart,
    an_invalid_key_is_refused,
    get_many_answers_each_key_in_order,
    get_many_of_an_unknown_group_fails,
    a_key_may_be_any_bytes,
    a_value_over_the_unary_limit_is_a_clear_error,
    a_thousand_concurrent_calls_of_a_cold_key_make_one_load,
    health_is_serving,
    reflection_is_enough_to_make_a_call,
    reflection_v1_lists_the_same_services,
]
FRONT_CHECKS = [
    fetch_answers_each_key_by_its_id,
    fetch_is_a_conversation,
    a_large_value_is_read_in_chunks,
]
EXPRESS_CHECKS = [streams_are_at_the_front_door]


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    node = Node(*sys.argv[1:])
    passed = [passes(check, node) for check in CHECKS]
    print("---")
    passed += [passes(check, node) for check in (EXPRESS_CHECKS if node.front else FRONT_CHECKS)]
    sys.exit(not all(passed))


def passes(check, node):
    try:
        check(node)
        print(f"ok {check.__name__}")
        return True
    except Exception as error:  # one that fails does not hide the others
        print(f"FAIL {check.__name__}: {error!r}")
        return False


if __name__ == "__main__":
    main()
