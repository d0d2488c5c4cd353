package agent

import (
	"context"

	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/guard"
)

// DamagedMark is doctor.DamagedMark.
const DamagedMark = doctor.DamagedMark

// makeDoctor makes what reports what works on this host.
func (a *components) makeDoctor() {
	a.keyChecker = doctor.NewKeyChecker(doctor.KeyCheckerDeps{
		Host: a.Host, Keys: a.keys, Programs: a.programs, Pools: a.pools, WorksSolo: a.config.PeerHTTP == nil,
	})
	a.poolChecker = doctor.NewPoolChecker(doctor.PoolCheckerDeps{
		Host: a.Host, Backends: a.config.Backends, Configured: a.config.Pools, Pools: a.pools, PoolMaker: a.poolMaker,
		Space: a.space, Datasets: a.datasets,
		Uses: a.uses, Moves: a.moveTable, Copies: a.copies, KeyChecker: a.keyChecker, IsNeeded: a.cleaner.IsNeeded,
	})
	a.doctor = doctor.New(doctor.Deps{
		Host: a.Host, Backends: a.config.Backends, Pools: a.pools, Space: a.space, PoolChecker: a.poolChecker,
		KeyChecker: a.keyChecker, Datasets: a.datasets, Sizes: a.sizes, Replicas: a.replicas, Uses: a.uses,
		Engines: a.engines, Disks: a.disks, Guests: a.guests, Registrar: a.registrar, Failover: a.failover,
		Throttle: a.limits,
		Outside:  a.registration.Refusal,
		Identity: a.identity.Check,
	})
}

// SeenGuard is lease.Registrar.Status.
func (a *Agent) SeenGuard(ctx context.Context) (guard.Status, error) { return a.registrar.Status(ctx) }

// WarnOfKeys is doctor.KeyChecker.Warn.
func (a *Agent) WarnOfKeys() { a.keyChecker.Warn() }
