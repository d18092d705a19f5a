-- Say something to a process. ARGV: shift_ms, node, payload, name (which tells a repeat). Answers 1, or 0: nobody
-- there listens.
tell(ARGV[2], 'c', ARGV[3], ARGV[4] or '')
return flush() and 0 or 1
