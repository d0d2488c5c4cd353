package server

import (
	"context"
	"io"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) volumes() {
	add(h, endpoint.ListVolumes.Endpoint,
		func(ctx context.Context, in *endpoint.VolumePage) (*answer[volumeList], error) {
			if minimal, health := prefersMinimal(in.Prefer); minimal {
				in.Health = health
				l, err := paged(in.Page, isName, func() (api.List[api.VolumeSummary], error) {
					return h.Service.VolumeSummaries(ctx, in.Page)
				})
				return &answer[volumeList]{volumeList{summaries: &l}}, err
			}
			l, err := paged(in.Page, isName, func() (api.List[api.Volume], error) {
				return h.Service.Volumes(ctx, in.Page)
			})
			return &answer[volumeList]{volumeList{whole: l}}, err
		})
	bind(h, endpoint.GetVolume, func(ctx context.Context, in *endpoint.VolumeParam) (api.Volume, error) {
		return h.Service.Volume(ctx, in.Volume)
	})
	submits(h, endpoint.CreateVolume, dataset.OpCreate,
		func(in *endpoint.Change[api.CreateVolume], req *api.Request) {
			req.Volume, req.Options = in.Body.Volume, in.Body.Options
		})
	submits(h, endpoint.DeleteVolume, dataset.OpDelete, func(in *endpoint.DeletedVolume, req *api.Request) {
		req.Volume, req.Force, req.Fenced = in.Volume, in.Force, in.Fenced
	})
	submits(h, endpoint.DropAlias, dataset.OpDropAlias, func(in *endpoint.DroppedAlias, req *api.Request) {
		req.Volume, req.Name, req.Force = in.Volume, in.Alias, in.Force
	})
	changesVolume(h, endpoint.ResizeVolume, dataset.OpResize, func(body *api.ResizeVolume, req *api.Request) {
		req.Size = body.Size
	})
	changesVolume(h, endpoint.RekeyVolume, dataset.OpRekey, func(body *api.RekeyVolume, req *api.Request) {
		req.Path = body.OldKeyFile
	})
	changesVolume(h, endpoint.SetVolumeProfile, dataset.OpUpdate, func(body *api.SetProfile, req *api.Request) {
		req.Profile = body.Profile
	})
	changesVolume(h, endpoint.ProtectVolume, dataset.OpUpdate, func(body *api.ProtectVolume, req *api.Request) {
		req.Protect = &body.Protect
	})
	changesVolume(h, endpoint.RenameVolume, dataset.OpRename, func(body *api.RenameVolume, req *api.Request) {
		req.Name = body.Name
	})
	changesVolume(h, endpoint.ImportVolume, dataset.OpImport, func(body *api.ImportVolume, req *api.Request) {
		req.Path, req.Live, req.Options = body.Path, body.Live, body.Options
		req.Repository, req.Backup, req.Version = body.Repository, body.Backup, body.Version
	})
	changesVolume(h, endpoint.VerifyBackup, dataset.OpVerify, func(body *api.VerifyBackup, req *api.Request) {
		req.Options, req.Check = body.Options, body.Check
		req.Repository, req.Backup = body.Repository, body.Backup
	})
	changesVolume(h, endpoint.BackUpVolume, dataset.OpBackup, func(body *api.BackUpVolume, req *api.Request) {
		req.Repository, req.Snapshot = body.Repository, body.Snapshot
	})
	changesVolume(h, endpoint.PushVolume, dataset.OpPush, func(body *api.PushVolume, req *api.Request) {
		req.Repository, req.Snapshot, req.Name = body.Repository, body.Snapshot, body.Name
	})
	changesVolume(h, endpoint.CreateSnapshot, dataset.OpSnapshot, func(body *api.TakeSnapshot, req *api.Request) {
		req.Name, req.Message, req.Scheduled = body.Name, body.Message, body.Scheduled
	})
}

// changesVolume serves a row whose requests become operations of the volume in the path. fill copies the body.
func changesVolume[T any](h handlers, e endpoint.Of[endpoint.VolumeChange[T], api.Outcome], kind dataset.OpKind,
	fill func(*T, *api.Request)) {
	submits(h, e, kind, func(in *endpoint.VolumeChange[T], req *api.Request) {
		req.Volume = in.Volume
		fill(&in.Body, req)
	})
}

// transfers serves the endpoints whose request or answer is an archive of a volume.
func (h handlers) transfers() {
	add(h, endpoint.ExportVolume.Endpoint, func(ctx context.Context, in *endpoint.ExportParams) (*Bytes, error) {
		changeOf(ctx).addDetail("snapshot ", in.Snapshot)
		return stream("application/x-tar", func(ctx context.Context, w *streamWriter) (err error) {
			w.leftOut, err = h.Local.Export(ctx, in.Volume, in.Snapshot, w)
			return err
		}), nil
	}, responds("application/x-tar", binary))
	add(h, endpoint.UploadVolume.Endpoint, h.upload, func(op *huma.Operation) {
		op.RequestBody = &huma.RequestBody{Required: true, Content: content("application/x-tar", binary)}
	})
}

func (h handlers) upload(ctx context.Context, in *uploadInput) (*answer[dataset.Dataset], error) {
	req := endpoint.OperationParam{OperationIDParam: in.OperationIDParam}.Request(dataset.OpImport)
	req.Volume = in.Volume
	for _, o := range in.Options {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			return nil, dataset.Errorf(dataset.ErrInvalid, "bad option %q: want KEY=VALUE", dataset.Clip(o))
		}
		if req.Options == nil {
			req.Options = map[string]string{}
		}
		req.Options[key] = value
	}
	d, err := h.Local.Import(ctx, req, in.archive)
	return &answer[dataset.Dataset]{d}, err
}

type uploadInput struct {
	endpoint.UploadParams
	archive io.Reader
}

// Resolve keeps the reader of the body, which huma would otherwise read into memory.
func (in *uploadInput) Resolve(ctx huma.Context) []error {
	in.archive = ctx.BodyReader()
	return nil
}
