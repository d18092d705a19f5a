-- Write behind what sessions say of themselves. ARGV: shift_ms, node, then for each: bucket, user, device,
-- generation, acked, seen, parked, away (1: its client is gone), has_record (1), record.
-- seen: acked, or 0 where the device only began there, which may be the head: nobody acknowledged that.
-- Answers for each 0, or the code to close the session with, or -1: this primary does not know the claim, and
-- `check` enters it. Then nothing of it was written.
-- with session
local node = ARGV[2]
local codes = {}
for i = 3, #ARGV, 10 do
  local bucket, user, device, acked = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 4])
  local hash = user_key(bucket, user)
  local state = device_of(hash, device)
  local generation = tonumber(ARGV[i + 3])
  local code = is_lost(state, generation) and -1 or fence(state, generation, node)
  codes[#codes + 1] = code
  if code == 0 then
    state[ACKED] = math.max(state[ACKED], acked)
    state[PARKED], state[AWAY], state[SEEN_MS] = ARGV[i + 6], tonumber(ARGV[i + 7]), now
    keep(hash, device, state)
    raise_seen(hash, tonumber(ARGV[i + 5]), generation)
    if ARGV[i + 8] == '1' then
      if ARGV[i + 9] == '' then
        redis.call('HDEL', more_key(bucket, user), 'r:' .. device)
      else
        redis.call('HSET', more_key(bucket, user), 'r:' .. device, ARGV[i + 9])
      end
    end
  end
end
return codes
