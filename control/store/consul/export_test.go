package consul

// MaxConns is maxConns, for tests.
const MaxConns = maxConns
