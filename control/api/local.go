package api

import (
	"context"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// AdoptPool asks for a pool that lies somewhere.
type AdoptPool struct {
	Path string `json:"path" doc:"where the pool lies"`
}

// AcceptPool asks for a pool that is held to serve as it is.
type AcceptPool struct {
	Pool      string `json:"pool" doc:"its name"`
	Confirmed bool   `json:"confirmed" doc:"what it has not any more is lost, on the word of who asks"`
}

// Adopted is a pool and what was found in it.
type Adopted struct {
	Pool    dataset.Pool `json:"pool"`    // the pool that was adopted
	Rebuilt []Rebuilt    `json:"rebuilt"` // what became of each dataset found in the pool
}

func (h handlers) pools() {
	add(h, get("/v1/pools", "list-pools", "pools", "List the pools"),
		func(ctx context.Context, _ *struct{}) (*answer[List[Pool]], error) {
			return all(h.Service.Pools(ctx))
		})
	add(h, post("/v1/pools", "create-pool", "pools", "Make a pool on this host", ""),
		func(ctx context.Context, in *struct{ Body NewPool }) (*answer[dataset.Pool], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Name)
			return reply(h.Local.CreatePool(ctx, in.Body))
		})
	add(h, post("/v1/pools/adopt", "adopt-pool", "pools", "Take over a pool that lies on this host",
		"What is in it gets its names again."),
		func(ctx context.Context, in *struct{ Body AdoptPool }) (*answer[Adopted], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Path)
			pool, rebuilt, err := h.Local.AdoptPool(ctx, in.Body.Path)
			if rebuilt == nil {
				rebuilt = []Rebuilt{}
			}
			return reply(Adopted{Pool: pool, Rebuilt: rebuilt}, err)
		})
	add(h, post("/v1/pools/accept", "accept-pool", "pools", "Have a pool of this host that is held serve as it is",
		"It was put back to an older state: what was written to it since is lost."),
		func(ctx context.Context, in *struct{ Body AcceptPool }) (*answer[dataset.Pool], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Pool)
			return reply(h.Local.AcceptPool(ctx, in.Body))
		})
	add(h, del("/v1/pools/{pool}", "remove-pool", "pools", "Remove a pool of this host that holds nothing",
		"What Drover made at its place goes. Refused while anything lies or is on record there."),
		func(ctx context.Context, in *struct {
			Pool   string `path:"pool" doc:"its name"`
			Forget bool   `query:"forget" doc:"take it off the record alone, and touch nothing at its place, which may be away"`
		}) (*answer[RemovedPool], error) {
			if changeOf(ctx).Target = dataset.Clip(in.Pool); in.Forget {
				changeOf(ctx).Detail = "forget"
			}
			return reply(h.Local.RemovePool(ctx, in.Pool, in.Forget))
		})
}

func (h handlers) local() {
	add(h, get("/v1/doctor", "doctor", "host", "Say what works on this host, what does not and why"),
		func(ctx context.Context, _ *struct{}) (*answer[List[Finding]], error) {
			return all(h.Local.Doctor(ctx))
		})
	add(h, del("/v1/doctor/{dataset}", "collect", "host", "Destroy one thing that the store does not know",
		"Doctor lists them. There is no other way in which Drover destroys what it does not know."),
		func(ctx context.Context, in *struct {
			Dataset uuid.UUID `path:"dataset" doc:"the full UUID, as doctor prints it"`
		}) (*struct{}, error) {
			return nil, h.Local.Collect(ctx, in.Dataset)
		})
	add(h, post("/v1/store/rebuild", "rebuild-store", "host",
		"Bring back the names from what lies in this host's pools", ""),
		func(ctx context.Context, in *struct {
			SkipOffline bool `query:"skip_offline" doc:"go without the pools that are offline: others can take their names"`
		}) (*answer[List[Rebuilt]], error) {
			return all(h.Local.RebuildStore(ctx, in.SkipOffline))
		})
}

// absent stands for the agent, or the store, that a process does not have.
type absent struct{}

var (
	_ Local   = absent{}
	_ Backup  = absent{}
	_ Members = absent{}
)

func (absent) err() error {
	return dataset.Errorf(dataset.ErrUnsupported,
		"this is control, which has no part in any host (ask on the host in question, with no DROVER_API and no --api)")
}

func (a absent) Doctor(context.Context) ([]Finding, error)             { return nil, a.err() }
func (a absent) Collect(context.Context, uuid.UUID) error              { return a.err() }
func (a absent) RebuildStore(context.Context, bool) ([]Rebuilt, error) { return nil, a.err() }
func (a absent) Diff(context.Context, string, string) (Diff, error)    { return Diff{}, a.err() }

func (a absent) CreatePool(context.Context, NewPool) (dataset.Pool, error) {
	return dataset.Pool{}, a.err()
}

func (a absent) AdoptPool(context.Context, string) (dataset.Pool, []Rebuilt, error) {
	return dataset.Pool{}, nil, a.err()
}

func (a absent) AcceptPool(context.Context, AcceptPool) (dataset.Pool, error) {
	return dataset.Pool{}, a.err()
}

func (a absent) RemovePool(context.Context, string, bool) (RemovedPool, error) {
	return RemovedPool{}, a.err()
}

func (a absent) Export(context.Context, string, string, io.Writer) (LeftOut, error) {
	return LeftOut{}, a.err()
}

func (a absent) Import(context.Context, Request, io.Reader) (dataset.Dataset, error) {
	return dataset.Dataset{}, a.err()
}

func (absent) Backup(context.Context, io.Writer) error {
	return dataset.Errorf(dataset.ErrUnsupported, "this drover's store cannot be copied from here")
}

func (absent) alone() error {
	return dataset.Errorf(dataset.ErrUnsupported,
		"this drover is one host by itself, or only a part of a cluster: ask one of the cluster's control "+
			"replicas (as root of a control host with "+onControl+")")
}

func (a absent) MakeToken(context.Context, NewToken) (JoinToken, error) {
	return JoinToken{}, a.alone()
}
func (a absent) Join(context.Context, Join) (Joined, error) { return Joined{}, a.alone() }
func (a absent) Trust(context.Context) (Trust, error)       { return Trust{}, a.alone() }
func (a absent) Recover(context.Context, Recover) (Recovery, error) {
	return Recovery{}, a.alone()
}
func (a absent) RevokeOperator(context.Context, string) error { return a.alone() }

func (a absent) Certify(context.Context, uuid.UUID, Certification) (pki.Signed, error) {
	return pki.Signed{}, a.alone()
}

func (a absent) RemoveNode(context.Context, string, bool) (Removed, error) {
	return Removed{}, a.alone()
}
