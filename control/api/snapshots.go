package api

import (
	"context"
	"maps"

	"github.com/droverhq/drover/dataset"
)

// SnapshotParam names a snapshot in a path.
type SnapshotParam struct {
	Snapshot string `path:"snapshot" doc:"the snapshot: a unique prefix of its UUID or, where the volume is said, its name"`
}

// OfVolumeParam says which volume's snapshot is meant.
type OfVolumeParam struct {
	Volume string `query:"volume" doc:"the volume whose snapshots are meant: its name, or a unique prefix of its dataset's UUID"`
}

// TakeSnapshot asks for a snapshot.
type TakeSnapshot struct {
	Name      string `json:"name,omitempty" doc:"a name, unique in the volume"`
	Message   string `json:"message,omitempty" doc:"why it was taken"`
	Scheduled bool   `json:"scheduled,omitempty" doc:"taken for the profile's schedule, and so pruned by it"`
}

// RestoreSnapshot asks that a volume be again as it was.
type RestoreSnapshot struct {
	Volume string `json:"volume" doc:"the volume: its name, or a unique prefix of its dataset's UUID"`
}

// CloneVolume asks for a volume that starts as a copy.
type CloneVolume struct {
	Source  string            `json:"source" minLength:"1" doc:"what is copied: a volume, or a unique prefix of a snapshot's or dataset's UUID"`
	New     string            `json:"new" doc:"the spec of the volume to be"`
	Options map[string]string `json:"options,omitempty" doc:"as with docker volume create -o"`
}

func (h handlers) snapshots() {
	add(h, get("/v1/snapshots", "list-snapshots", "snapshots", "List snapshots, of one volume or of all"),
		func(ctx context.Context, in *struct {
			OfVolumeParam
			Page
		}) (*answer[List[dataset.Snapshot]], error) {
			return page(h.Service.Snapshots(ctx, in.Volume, in.Page))
		})
	add(h, get("/v1/snapshots/{snapshot}", "get-snapshot", "snapshots", "Show a snapshot"),
		func(ctx context.Context, in *struct {
			SnapshotParam
			OfVolumeParam
		}) (*answer[dataset.Snapshot], error) {
			return reply(h.Service.Snapshot(ctx, in.Volume, in.Snapshot))
		})
	add(h, post("/v1/volumes/{volume}/snapshots", "create-snapshot", "snapshots", "Take a snapshot of a volume", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body TakeSnapshot
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpSnapshot)
			req.Volume, req.Name, req.Message, req.Scheduled = in.Volume, in.Body.Name, in.Body.Message,
				in.Body.Scheduled
			return h.submit(ctx, req)
		})
	add(h, del("/v1/snapshots/{snapshot}", "delete-snapshot", "snapshots", "Delete a snapshot", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			SnapshotParam
			OfVolumeParam
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpSnapshotDelete)
			req.Snapshot, req.Volume = in.Snapshot, in.Volume
			return h.submit(ctx, req)
		})
	add(h, post("/v1/snapshots/{snapshot}/restore", "restore-snapshot", "snapshots",
		"Make a volume again what it was", "What it was just before is kept as a snapshot."),
		func(ctx context.Context, in *struct {
			OperationParam
			SnapshotParam
			Body RestoreSnapshot
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpRestore)
			req.Snapshot, req.Volume = in.Snapshot, in.Body.Volume
			return h.submit(ctx, req)
		})
	add(h, get("/v1/snapshots/{snapshot}/diff", "diff-snapshot", "snapshots",
		"Say by how much a volume changed since a snapshot"),
		func(ctx context.Context, in *struct {
			SnapshotParam
			Newer string `query:"newer" doc:"a unique prefix of a later snapshot's UUID; left out: the volume as it is now"`
		}) (*answer[Diff], error) {
			return reply(h.Local.Diff(ctx, in.Snapshot, in.Newer))
		})
	add(h, post("/v1/clones", "create-clone", "snapshots", "Create a volume as a copy that shares its blocks",
		"A volume is copied as it is now."),
		func(ctx context.Context, in *struct {
			OperationParam
			Body CloneVolume
		}) (*answer[Outcome], error) {
			return h.clone(ctx, in.request(dataset.OpClone), in.Body)
		})
}

func (h handlers) clone(ctx context.Context, req Request, c CloneVolume) (*answer[Outcome], error) {
	if from, ok := c.Options["from"]; ok && from != c.Source {
		return nil, dataset.Errorf(dataset.ErrInvalid, "clone of %q: option from asks for %q (say one)",
			dataset.Clip(c.Source), dataset.Clip(from))
	}
	req.Volume, req.Options = c.New, maps.Clone(c.Options)
	if req.Options == nil {
		req.Options = map[string]string{}
	}
	req.Options["from"] = c.Source
	return h.submit(ctx, req)
}
