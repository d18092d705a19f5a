-- Has this node what it believes to have? ARGV: shift_ms, node, epoch, the generation of the data for which it has named
-- all that it has here, or 0, then for each session: bucket, user, device, generation, platform, issued_at_s, order,
-- since_ms, acked, seen, parked (see save.lua, also for epoch).
-- Answers for each 0, or the code to close it with. What a promoted replica has never heard of is entered again,
-- unless somebody else came meanwhile; of several of these the newest stands.
-- with session
local node, has_positions = ARGV[2], is_of_this_data(ARGV[3])
local codes = {}
for i = 5, #ARGV, 11 do
  local hash, device, generation = user_key(ARGV[i], ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3])
  local state = device_of(hash, device)
  local code = fence(state, generation, node)
  if is_lost(state, generation) and tonumber(ARGV[i + 5]) >= tonumber(redis.call('HGET', hash, 'nb') or 0) then
    if state and state[NODE] ~= '' and state[NODE] ~= node then
      tell(state[NODE], 'd', ARGV[i + 1], device, state[GENERATION], STALE)
    end
    local acked, parked = state and state[ACKED] or 0, state and state[PARKED] or ''
    if has_positions then
      acked, parked = stand_as(acked, parked, tonumber(ARGV[i + 8]), ARGV[i + 10])
      raise_seen(hash, tonumber(ARGV[i + 9]))
    end
    keep(hash, device, {
      generation, node, acked, now, tonumber(ARGV[i + 7]), ARGV[i + 4], tonumber(ARGV[i + 5]),
      tonumber(ARGV[i + 6]), string.rep('\0', 16), parked, 0, 0, 0,
    })
    code = 0
  elseif code == 0 and state[WRITTEN] ~= primary_generation then
    keep(hash, device, state)
  end
  codes[#codes + 1] = code
end
if tonumber(ARGV[4]) == primary_generation then
  redis.call('HSET', 'ig:named', node, primary_generation)
end
flush()
return codes
