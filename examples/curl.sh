#!/usr/bin/env bash
# Headwater in five lines of curl: append, conflict, aggregate, subscribe, follow. Each can be run alone.
# HEADWATER_URL says where the service is; http://127.0.0.1:8080 unless it is set. HEADWATER_KEY is an API key, if one is required.
set -eu
url=${HEADWATER_URL:-http://127.0.0.1:8080}/v1
# From a file and not as an argument, which others on this machine could see.
curl() { command curl ${HEADWATER_KEY:+-H @<(printf 'Authorization: Bearer %s' "$HEADWATER_KEY")} "$@"; }

# append: the order is new, so its stream must be empty (-1)
curl --json '{"expected_version":-1,"messages":[{"type":"OrderPlaced","data":{"item":"Tea","quantity":2}}]}' "$url/streams/order-1/messages"
# conflict: the same again is a 409, which says at which version the stream is
curl --json '{"expected_version":-1,"messages":[{"type":"OrderPlaced","data":{"item":"Tea","quantity":2}}]}' "$url/streams/order-1/messages"
# aggregate: all orders, divided among four partitions; those of one order stay together
curl -X PUT --json '{"categories":["order"],"partitioner":{"kind":"stream","partitions":4}}' "$url/aggregated-streams/orders"
# subscribe: a shared place in them, and the first messages for one consumer
curl -X PUT --json '{"source":{"aggregated_stream":"orders"}}' "$url/subscriptions/billing" && curl --json '{"consumer":"w1","wait":"10s"}' "$url/subscriptions/billing/fetch"
# follow: all orders, from the beginning and then live (Ctrl-C ends it)
curl -N "$url/categories/order/events?from=beginning"
