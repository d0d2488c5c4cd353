package agent

import (
	"context"
	"io"
	"net/http"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/plugin"
)

// Doctor is doctor.Doctor.Examine.
func (a *Agent) Doctor(ctx context.Context) ([]api.Finding, error) { return a.Examine(ctx) }

// RebuildStore is controlsync.Holdings.RebuildStore.
func (a *Agent) RebuildStore(ctx context.Context, r api.RebuildStore) ([]api.Rebuilt, error) {
	return a.Holdings.RebuildStore(ctx, r)
}

// Import makes a volume from a tar archive.
func (a *Agent) Import(ctx context.Context, req api.Request, r io.Reader) (dataset.Dataset, error) {
	return a.Importer.ImportArchive(ctx, req, r)
}

// VolumeHolders returns who uses a volume whose home is this node: see mounting.Holders.Examine.
func (a *Agent) VolumeHolders(ctx context.Context, volume string) (dataset.Holders, error) {
	d, known := a.Cache.Volume(volume)
	if id, err := uuid.Parse(volume); err == nil && !known {
		d, known = a.Cache.Dataset(id)
	}
	if !known {
		v, err := a.Control.Volume(ctx, volume)
		if err != nil {
			return dataset.Holders{}, err
		}
		d = v.Dataset
	}
	if d.Home != a.NodeID {
		return dataset.Holders{}, dataset.Errorf(dataset.ErrUnsupported,
			"holders of volume %s: its home is another node, and only that node can examine them (drover volume "+
				"inspect %s shows it)", d.Volume, d.Volume)
	}
	return a.components.Holders.Examine(ctx, d), nil
}

// CheckRepository is backup.Checker.Check.
func (a *Agent) CheckRepository(ctx context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	return a.Backups.Repositories.Check(ctx, c)
}

// Mount and Unmount are methods of mounting.Mounts. The other calls of the plugin, except Activated, are methods of
// operation.Operations.
var _ plugin.Agent = (*Agent)(nil)

// Activated is mounting.Verifier.Activated.
func (a *Agent) Activated(ctx context.Context) { a.Verifier.Activated(ctx) }

// DamagedMark is part of the names of files in the root that could not be read at a start and were renamed: see
// doctor.DamagedMark.
const DamagedMark = doctor.DamagedMark

// GuardStatus calls lease.Registrar.Status.
func (a *Agent) GuardStatus(ctx context.Context) (guard.Status, error) {
	return a.Leases.Registrar.Status(ctx)
}

// Peers returns the handler of the requests of other nodes' agents, or nil if this node works alone.
func (a *Agent) Peers() http.Handler {
	if a.Config.PeerHTTP == nil {
		return nil
	}
	h := http.NewServeMux()
	h.Handle("/", a.TransferServer.Handler())
	h.HandleFunc(lease.Path, func(w http.ResponseWriter, r *http.Request) {
		peer, err := a.Config.PeerID(r)
		a.Leases.ServePromise(w, r, peer, err)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The work must end with the request. The values of the request's context describe the connection of the peer,
		// so requests to control must not get them, except the ID of the request.
		ctx, cancel := context.WithCancel(requestid.With(a.Ctx, r.Header.Get(requestid.Header)))
		defer cancel()
		defer context.AfterFunc(r.Context(), cancel)()
		if id, err := a.Config.PeerID(r); err == nil { // otherwise the handler reports the error
			ctx = move.WithRequester(ctx, id)
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}
