package agent

import (
	"context"

	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/guard"
)

// DamagedMark is part of the names of files in the root that could not be read at a start and were renamed: see
// status.DamagedMark.
const DamagedMark = doctor.DamagedMark

// makeDoctor creates the components that report problems of this host.
func (a *components) makeDoctor() {
	a.KeyChecker = doctor.NewKeyChecker(doctor.KeyCheckerDeps{
		Host: a.Host, Keys: a.Keys, Programs: a.Programs, Pools: a.Pools, WorksSolo: a.Config.PeerHTTP == nil,
	})
	a.PoolChecker = doctor.NewPoolChecker(doctor.PoolCheckerDeps{
		Host: a.Host, Backends: a.Config.Backends, Configured: a.Config.Pools, Pools: a.Pools, PoolMaker: a.Pools,
		Space: a.Pools, Datasets: a.Operations,
		Uses: a.Uses, Moves: a.MoveTable, Copies: a.Copies, KeyChecker: a.KeyChecker, IsNeeded: a.Cleaner.IsNeeded,
	})
	a.Examiner = doctor.New(doctor.Deps{
		Host: a.Host, Backends: a.Config.Backends, Pools: a.Pools, Space: a.Pools, PoolChecker: a.PoolChecker,
		KeyChecker: a.KeyChecker, Datasets: a.Operations, Sizes: a.Sizes, Replicas: a.Replicas, Uses: a.Uses,
		Engines: a.Engines, Disks: a.Disks, SharedMounter: a.SharedMounts, Registrar: a.Leases.Registrar,
		Failover: a.Moves,
		Throttle: a.Throttle,
		Holders:  a.Holders.Examine,
		Pending:  a.Remover.PendingPurges,
		Refusal:  a.Registration.Refusal,
		Identity: a.Identity.Check,
		ExtraChecks: append([]func(*host.List){
			a.Reporter.Check, a.Status.Check, a.LostWrites.Check, a.Backups.Repositories.Findings, a.Backups.Findings,
		}, a.Config.Checks...),
	})
	a.Watcher = doctor.NewWatcher(a.Examiner)
}

// GuardStatus calls lease.Registrar.Status.
func (a *Agent) GuardStatus(ctx context.Context) (guard.Status, error) {
	return a.Leases.Registrar.Status(ctx)
}

// WarnOfKeys is status.KeyChecker.Warn.
func (a *Agent) WarnOfKeys() { a.KeyChecker.Warn() }
