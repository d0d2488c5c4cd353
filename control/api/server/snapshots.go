package server

import (
	"context"
	"maps"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) snapshots() {
	add(h, endpoint(route.ListSnapshots, "snapshots", "List snapshots, of one volume or of all", ""),
		func(ctx context.Context, in *struct {
			OfVolumeParam
			api.Page
		}) (*answer[api.List[dataset.Snapshot]], error) {
			return paged(in.Page, isSnapshot, func() (api.List[dataset.Snapshot], error) {
				return h.Service.Snapshots(ctx, in.Volume, in.Page)
			})
		})
	add(h, endpoint(route.GetSnapshot, "snapshots", "Show a snapshot", ""),
		func(ctx context.Context, in *struct {
			SnapshotParam
			OfVolumeParam
		}) (*answer[dataset.Snapshot], error) {
			return reply(h.Service.Snapshot(ctx, in.Volume, in.Snapshot))
		})
	add(h, endpoint(route.CreateSnapshot, "snapshots", "Take a snapshot of a volume", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.TakeSnapshot
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpSnapshot)
			req.Volume, req.Name, req.Message, req.Scheduled = in.Volume, in.Body.Name, in.Body.Message,
				in.Body.Scheduled
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.DeleteSnapshot, "snapshots", "Delete a snapshot", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			SnapshotParam
			OfVolumeParam
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpSnapshotDelete)
			req.Snapshot, req.Volume = in.Snapshot, in.Volume
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.RestoreSnapshot, "snapshots",
		"Restore a volume to a snapshot", "The replaced content is kept as a snapshot."),
		func(ctx context.Context, in *struct {
			OperationParam
			SnapshotParam
			Body api.RestoreSnapshot
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpRestore)
			req.Snapshot, req.Volume = in.Snapshot, in.Body.Volume
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.MeasureSnapshot, "snapshots", "Say how much space the deletion of a snapshot frees", ""),
		func(ctx context.Context, in *struct{ SnapshotParam }) (*answer[api.SnapshotSpace], error) {
			return reply(h.Local.SnapshotSpace(ctx, in.Snapshot))
		})
	add(h, endpoint(route.DiffSnapshot, "snapshots", "Measure how much of a volume changed since a snapshot", ""),
		func(ctx context.Context, in *struct {
			SnapshotParam
			Newer string `query:"newer" doc:"unique prefix of a later snapshot's UUID; absent: the present content"`
		}) (*answer[api.Diff], error) {
			return reply(h.Local.Diff(ctx, in.Snapshot, in.Newer))
		})
	add(h, endpoint(route.CreateClone, "snapshots", "Create a volume as a copy that shares its blocks",
		"The source is a snapshot, or the present content of a volume."),
		func(ctx context.Context, in *struct {
			OperationParam
			Body api.CloneVolume
		}) (*work[api.Outcome], error) {
			return h.clone(ctx, in.request(dataset.OpClone), in.Body)
		})
}

func (h handlers) clone(ctx context.Context, req api.Request, c api.CloneVolume) (*work[api.Outcome], error) {
	if from, ok := c.Options["from"]; ok && from != c.Source {
		return nil, dataset.Errorf(dataset.ErrInvalid, "clone of %q: unexpected option from: %q (use only one)",
			dataset.Clip(c.Source), dataset.Clip(from))
	}
	req.Volume, req.Options = c.Volume, maps.Clone(c.Options)
	if req.Options == nil {
		req.Options = map[string]string{}
	}
	req.Options["from"] = c.Source
	return h.submit(ctx, req)
}
