package store

import (
	"context"
	"time"
)

// HealthReporter is a store on servers that can fail one by one.
type HealthReporter interface {
	// Health returns the state of the servers. It asks them during the call, for at most HealthTime. If something
	// cannot be found out, Health.Problem says so; Health returns no error.
	Health(ctx context.Context) Health
}

// HealthTime bounds a call of HealthReporter.Health.
const HealthTime = 3 * time.Second

// Health is the state of the servers of a store at one moment.
type Health struct {
	Problem string   // why the store cannot be written, or its state cannot be read; empty: none
	Leader  string   // address of the leader; empty: none, or not known
	Servers []Server // nil if they are not known
	// FailureTolerance is how many of the servers can still fail before the store cannot be written. It is not known
	// if Servers is nil.
	FailureTolerance int
}

// Server is one server of a store.
type Server struct {
	Name, Address string
	Healthy       bool
	Leader        bool
	// LastContact is how long ago the server last heard from the leader. It is negative if that is not known.
	LastContact time.Duration
}
