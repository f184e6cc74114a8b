-- Sends one POST again and again and prints a single JSON line of what came back.
-- BENCH_HEADERS: one header a line; BENCH_BODY: the event; BENCH_EXPECT: the body that every answer
-- must have (empty: not compared, which leaves wrk its full speed).
wrk.method = os.getenv("BENCH_METHOD") or "POST"
wrk.body = os.getenv("BENCH_BODY") or ""
for line in (os.getenv("BENCH_HEADERS") or ""):gmatch("[^\n]+") do
    local name, value = line:match("^([^:]+):%s*(.*)$")
    wrk.headers[name] = value
end

local threads = {}
local expected = os.getenv("BENCH_EXPECT") or ""
wrong_bodies = 0
compared_bodies = 0

function setup(thread)
    table.insert(threads, thread)
end

if expected ~= "" then
    function response(status, headers, body)
        compared_bodies = compared_bodies + 1
        if body ~= expected then
            wrong_bodies = wrong_bodies + 1
        end
    end
end

function done(summary, latency, requests)
    local wrong, compared = 0, 0
    for _, thread in ipairs(threads) do
        wrong = wrong + (thread:get("wrong_bodies") or 0)
        compared = compared + (thread:get("compared_bodies") or 0)
    end
    local errors = summary.errors
    io.write(string.format(
        '{"requests":%d,"duration_us":%d,"bytes":%d,"connect_errors":%d,"read_errors":%d,' ..
        '"write_errors":%d,"timeouts":%d,"non_2xx":%d,"compared_bodies":%d,"wrong_bodies":%d,' ..
        '"p50_us":%d,"p90_us":%d,"p99_us":%d,"p999_us":%d,"max_us":%d,"mean_us":%.1f}\n',
        summary.requests, summary.duration, summary.bytes, errors.connect, errors.read,
        errors.write, errors.timeout, errors.status, compared, wrong,
        latency:percentile(50), latency:percentile(90), latency:percentile(99),
        latency:percentile(99.9), latency.max, latency.mean))
end
