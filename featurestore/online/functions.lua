#!lua name=wardstream
-- The online store's only two verbs. A row's first 21 bytes are the same in every format: format (1), fingerprint (4),
-- event time (8), ingest time (8), times in milliseconds, little-endian; see featurestore/online/row.py.

-- Redis answers nobody else while a function runs: 1,000 keys take 2 to 4 ms.
local most_keys = 1000

-- Counts the bytes of each field in the hash `bytes` beside the project's marks: what rows and their keys take.
local function count(key, field, more)
  local counts = string.match(key, '^(p:{[^}]*}:)')
  if counts == nil or more == 0 then return end
  local before = tonumber(redis.call('HGET', counts .. 'bytes', field) or 0)
  redis.call('HSET', counts .. 'bytes', field, string.format('%d', math.max(0, before + more)))
end

-- put: KEYS entity hashes, ARGV[1] field, ARGV[i + 1] row of KEYS[i]. Returns how many rows were written.
-- Newer event time wins; equal: later ingest time wins; equal both: the one that comes later, which within a partition
-- is the later record. So a replay in order ends as it began, and the row equals the offline table's newest.
local function put(keys, args)
  if #keys > most_keys then return redis.error_reply('LIMIT at most ' .. most_keys .. ' keys a call') end
  if #args ~= #keys + 1 then return redis.error_reply('ARGS one field and one row a key are expected') end
  for i = 2, #args do
    if #args[i] < 21 then return redis.error_reply('ARGS a row has at least 21 bytes') end
  end
  -- Event and ingest time are two numbers of 8 bytes from the sixth byte on.
  local call, numbers, times = redis.call, struct.unpack, '<ll'
  local field, written, more = args[1], 0, 0
  for i = 1, #keys do
    local new = args[i + 1]
    local old, newer = call('HGET', keys[i], field), true
    if old then
      local old_event, old_ingest = numbers(times, old, 6)
      local new_event, new_ingest = numbers(times, new, 6)
      newer = old_event < new_event or (old_event == new_event and (old_ingest < new_ingest or (old_ingest == new_ingest and old ~= new)))
    end
    if newer then
      call('HSET', keys[i], field, new)
      more = more + #new - (old and #old or -#keys[i] - #field)
      written = written + 1
    end
  end
  if #keys > 0 then count(keys[1], field, more) end
  return written
end

-- read: KEYS entity hashes, ARGV fields. Returns for each key the row of each field, nil where there is none.
local function read(keys, args)
  if #keys > most_keys then return redis.error_reply('LIMIT at most ' .. most_keys .. ' keys a call') end
  local found = {}
  for i = 1, #keys do found[i] = redis.call('HMGET', keys[i], unpack(args)) end
  return found
end

redis.register_function('put', put)
redis.register_function{function_name = 'read', callback = read, flags = {'no-writes'}}
