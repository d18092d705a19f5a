-- A user's devices. ARGV: shift_ms, bucket, user. Answers {device, platform, node, generation, ms, online, …}:
-- node '' if no node that lives has it open, and then ms is when it was last seen, else since when it is open.
-- with leases
-- with session
local found = {}
for device, state in pairs((all_of(user_key(ARGV[2], ARGV[3])))) do
  local is_open = is_held(state)
  local n = #found
  found[n + 1], found[n + 2] = device, state[PLATFORM]
  found[n + 3], found[n + 4] = is_open and state[NODE] or '', is_open and state[GENERATION] or 0
  found[n + 5] = is_open and state[SINCE_MS] or state[SEEN_MS]
  found[n + 6] = is_open and 1 - state[AWAY] or 0
end
return found
