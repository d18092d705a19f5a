-- Write behind what sessions say of themselves. ARGV: shift_ms, node ('': the session has ended), epoch, then for each:
-- bucket, user, device, generation, acked, seen, parked, away (1: its client is gone), has_record (1), record.
-- epoch: of the data that acked, seen and parked are of. With another these say nothing of the logs here.
-- seen: acked, or 0 where the device only began there, which may be the head: nobody acknowledged that.
-- Answers for each 0, or the code to close the session with, or -1: this primary does not know the claim, and
-- `check` enters it. Then nothing of it was written.
-- with session
local node, has_positions = ARGV[2], is_of_this_data(ARGV[3])
local codes = {}
for i = 4, #ARGV, 10 do
  local bucket, user, device, acked = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 4])
  local hash = user_key(bucket, user)
  local state = device_of(hash, device)
  local generation = tonumber(ARGV[i + 3])
  local code = is_lost(state, generation) and -1 or fence(state, generation, node)
  codes[#codes + 1] = code
  if code == 0 then
    if has_positions then
      state[ACKED], state[PARKED] = stand_as(state[ACKED], state[PARKED], acked, ARGV[i + 6])
      raise_seen(hash, tonumber(ARGV[i + 5]))
    end
    state[AWAY], state[SEEN_MS] = tonumber(ARGV[i + 7]), now
    keep(hash, device, state)
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
