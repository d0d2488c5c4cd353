package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) volumes() {
	add(h, endpoint(route.ListVolumes, "volumes", "List volumes by name", ""),
		func(ctx context.Context, in *struct {
			api.Page
			PreferParam
		}) (*answer[volumeList], error) {
			if minimal, health := in.minimal(); minimal {
				in.Health = health
				l, err := paged(in.Page, isName, func() (api.List[api.VolumeSummary], error) {
					return h.Service.VolumeSummaries(ctx, in.Page)
				})
				if err != nil {
					return nil, err
				}
				return reply(volumeList{summaries: &l.Body}, nil)
			}
			l, err := paged(in.Page, isName, func() (api.List[api.Volume], error) {
				return h.Service.Volumes(ctx, in.Page)
			})
			if err != nil {
				return nil, err
			}
			return reply(volumeList{whole: l.Body}, nil)
		})
	add(h, endpoint(route.GetVolume, "volumes", "Show a volume", ""),
		func(ctx context.Context, in *VolumeParam) (*answer[api.Volume], error) {
			return reply(h.Service.Volume(ctx, in.Volume))
		})
	add(h, endpoint(route.CreateVolume, "volumes", "Create a volume",
		"If the volume already exists as requested, that is no error."),
		func(ctx context.Context, in *struct {
			OperationParam
			Body api.CreateVolume
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpCreate)
			req.Volume, req.Options = in.Body.Volume, in.Body.Options
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.DeleteVolume, "volumes", "Delete a volume",
		"Its profile says whether the data goes to the trash."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			ForceParam
			FencedParam
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpDelete)
			req.Volume, req.Force, req.Fenced = in.Volume, in.Force, in.Fenced
			return h.submit(ctx, req)
		})
}

// changes adds the endpoints that change an existing volume.
func (h handlers) changes() {
	add(h, endpoint(route.ResizeVolume, "volumes", "Resize a volume", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.ResizeVolume
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpResize)
			req.Volume, req.Size = in.Volume, in.Body.Size
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.RekeyVolume, "volumes",
		"Encrypt a volume's data key with the current key of its profile", "The data itself is not changed."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.RekeyVolume
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpRekey)
			req.Volume, req.Path = in.Volume, in.Body.OldKeyFile
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.RewriteVolume, "volumes",
		"Defragment a volume by rewriting it",
		"The volume must not be in use, and the pool must have space for a second copy. A mount cancels it."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpRewrite)
			req.Volume = in.Volume
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.SetVolumeProfile, "volumes",
		"Change the profile of a volume", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.SetProfile
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpUpdate)
			req.Volume, req.Profile = in.Volume, in.Body.Profile
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.ProtectVolume, "volumes",
		"Protect a volume from deletion, or end the protection", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.ProtectVolume
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpUpdate)
			req.Volume, req.Protect = in.Volume, &in.Body.Protect
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.ImportVolume, "volumes", "Create a volume from a folder or a backup",
		"The path has the spec of the new volume."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.ImportVolume
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpImport)
			req.Volume, req.Path, req.Live, req.Options = in.Volume, in.Body.Path, in.Body.Live, in.Body.Options
			req.Repository, req.Backup, req.Version = in.Body.Repository, in.Body.Backup, in.Body.Version
			return h.submit(ctx, req)
		})
}

// backups adds the endpoints that back up a volume, push it, and verify a backup of it.
func (h handlers) backups() {
	add(h, endpoint(route.VerifyBackup, "volumes",
		"Restore a backup into a temporary volume, and compare",
		"The path has the name of the volume that was backed up. It need not exist. The temporary volume is not "+
			"listed, has no name, and is removed at the end, or after the next start of its host."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.VerifyBackup
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpVerify)
			req.Volume, req.Options, req.Check = in.Volume, in.Body.Options, in.Body.Check
			req.Repository, req.Backup = in.Body.Repository, in.Body.Backup
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.BackUpVolume, "volumes",
		"Back up a volume to a repository",
		"The backup has the content of one moment. The volume can be in use. The operation has the ID of the backup."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.BackUpVolume
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpBackup)
			req.Volume, req.Repository, req.Snapshot = in.Volume, in.Body.Repository, in.Body.Snapshot
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.PushVolume, "volumes", "Push a volume to a repository",
		"The volume can be in use. The push is refused if the name in the repository has a version that the volume "+
			"does not continue. The ID of the operation becomes that of the version."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.PushVolume
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpPush)
			req.Volume, req.Repository, req.Snapshot = in.Volume, in.Body.Repository, in.Body.Snapshot
			req.Name = in.Body.Name
			return h.submit(ctx, req)
		})
}

// names adds the endpoints that change the names of a volume.
func (h handlers) names() {
	add(h, endpoint(route.RenameVolume, "volumes", "Rename a volume", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body api.RenameVolume
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpRename)
			req.Volume, req.Name = in.Volume, in.Body.Name
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.DropAlias, "volumes", "Drop an alias of a volume", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			AliasParam
			ForceDropParam
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpDropAlias)
			req.Volume, req.Name, req.Force = in.Volume, in.Alias, in.Force
			return h.submit(ctx, req)
		})
}

func (h handlers) submit(ctx context.Context, req api.Request) (*work[api.Outcome], error) {
	changeOf(ctx).noteRequest(req)
	out, err := h.Service.Submit(ctx, req)
	if req.DryRun { // its operation is not recorded, so nobody can follow it
		return accepted(out, "", err)
	}
	return accepted(out, pendingLocation(out.Operation), err)
}
