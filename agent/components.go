package agent

import (
	"context"
	"errors"
	"sync"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/google/uuid"
)

// components contains the parts of an agent. Its methods create and connect them. Its fields do not change after New.
type components struct {
	*host.Host
	Config          Config
	controlReplicas []api.Service // each control replica separately

	*doctor.Doctor

	Programs *host.Programs

	Backups         *backup.Backups
	*backup.Catalog // answers the requests of api.Local about backups

	// leaseCtx is the context of renewals and deadlines, and leaseWork waits for them. They continue until an agent
	// that stops has finished its work. If they ended earlier, a dataset could be fenced while work on it still runs,
	// and could not be repaired.
	leaseCtx  context.Context
	endLeases context.CancelFunc
	leaseWork sync.WaitGroup

	Cancel context.CancelFunc
	wg     sync.WaitGroup
}

// load reads the agent's database into the components.
func (a *components) load(ctx context.Context) error {
	for _, load := range []func(context.Context) error{
		a.Identity.Load, a.Registration.Load, a.StoreClock.Load, a.Follower.Load,
	} {
		if err := load(ctx); err != nil {
			return err
		}
	}
	err := records.EachDataset(ctx, a.DB, "volumes/", func(_ uuid.UUID, d api.IndexedDataset) error {
		a.Cache.Load(d)
		return nil
	})
	if err != nil {
		return err // the others remove what belongs to no dataset of the cache
	}
	return errors.Join(
		a.Spellings.Load(ctx),
		a.Status.LoadUsages(ctx), a.Reporter.LoadAnswer(ctx),
		a.Mounts.Load(ctx),
		a.Copies.Load(ctx),
		a.Leases.Load(ctx),
		a.MoveTable.Table.Load(ctx), a.Sizes.Load(ctx),
	)
}
