"""Examples of a backend, an interceptor, a session listener and a protocol."""
