"""A stock Python client that calls nodes again and again until its standard input ends:
rolling_restart.py SERVICE_CONFIG CALLERS PAUSE_MS GROUP ADDR...
"""

import random
import sys
import threading
import time

import grpc

TIMEOUT_S = 20


def main(config, callers, pause_ms, group, *addrs):
    options = [
        ("grpc.service_config", config),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # A proxy that the environment names is not for nodes on this machine.
        ("grpc.enable_http_proxy", 0),
    ]
    channel = grpc.insecure_channel("ipv4:" + ",".join(addrs), options)
    get = channel.unary_unary("/corecache.v1.Cache/Get")
    group = group.encode()
    request = bytes([1 << 3 | 2, len(group)]) + group + bytes([2 << 3 | 2, 3]) + b"hot"
    warm = threading.Barrier(int(callers) + 1)
    stop = threading.Event()
    answered, failed = [], []

    def call():
        try:
            get(request, timeout=TIMEOUT_S)
            answered.append(1)
        except grpc.RpcError as error:
            failed.append(1)
            print(error.code(), error.details(), file=sys.stderr, flush=True)

    def call_on():
        call()
        warm.wait()
        while not stop.is_set():
            time.sleep(random.uniform(0, 2 * float(pause_ms) / 1000))
            call()

    threads = [threading.Thread(target=call_on) for _ in range(int(callers))]
    for thread in threads:
        thread.start()
    warm.wait()
    print("calling", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(f"{len(answered)} answered, {len(failed)} failed")


main(*sys.argv[1:])
