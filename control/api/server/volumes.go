package server

import (
	"context"
	"io"
	"maps"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) volumes() {
	add(h, endpoint.ListVolumes.Endpoint,
		func(ctx context.Context, in *endpoint.VolumePage) (*answer[volumeList], error) {
			if in.Health = in.Prefer == wire.MinimalHealth; in.Health || in.Prefer == wire.Minimal {
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

func (h handlers) snapshots() {
	bind(h, endpoint.ListSnapshots,
		func(ctx context.Context, in *endpoint.SnapshotPage) (api.List[dataset.Snapshot], error) {
			return paged(in.Page, isSnapshot, func() (api.List[dataset.Snapshot], error) {
				return h.Service.Snapshots(ctx, in.Volume, in.Page)
			})
		})
	bind(h, endpoint.GetSnapshot,
		func(ctx context.Context, in *endpoint.SnapshotOfVolume) (dataset.Snapshot, error) {
			return h.Service.Snapshot(ctx, in.Volume, in.Snapshot)
		})
	submits(h, endpoint.DeleteSnapshot, dataset.OpSnapshotDelete, func(in *endpoint.DeletedSnapshot, req *api.Request) {
		req.Snapshot, req.Volume = in.Snapshot, in.Volume
	})
	submits(h, endpoint.RestoreSnapshot, dataset.OpRestore, func(in *endpoint.RestoredSnapshot, req *api.Request) {
		req.Snapshot, req.Volume = in.Snapshot, in.Body.Volume
	})
	bindWork(h, endpoint.CreateClone, h.clone)
}

func (h handlers) clone(ctx context.Context, in *endpoint.Change[api.CloneVolume]) (api.Outcome, string, error) {
	c := in.Body
	if from, ok := c.Options["from"]; ok && from != c.Source {
		return api.Outcome{}, "", dataset.Errorf(dataset.ErrInvalid,
			"clone of %q: unexpected option from: %q (use only one)", dataset.Clip(c.Source), dataset.Clip(from))
	}
	req := in.Request(dataset.OpClone)
	req.Volume, req.Options = c.Volume, maps.Clone(c.Options)
	if req.Options == nil {
		req.Options = map[string]string{}
	}
	req.Options["from"] = c.Source
	return h.submit(ctx, req)
}

func (h handlers) trash() {
	bind(h, endpoint.ListTrash, func(ctx context.Context, in *api.Page) (api.List[api.Volume], error) {
		return paged(*in, isUUID, func() (api.List[api.Volume], error) { return h.Service.Trash(ctx, *in) })
	})
	submits(h, endpoint.RestoreTrash, dataset.OpUndelete, func(in *endpoint.RestoredDataset, req *api.Request) {
		req.Volume = in.Dataset
		if in.Body != nil {
			req.Name = in.Body.Name
		}
	})
	submits(h, endpoint.PurgeTrash, dataset.OpPurge, func(in *endpoint.PurgedDataset, req *api.Request) {
		req.Volume = in.Dataset
	})
	bindWork(h, endpoint.EmptyTrash,
		func(ctx context.Context, in *endpoint.DryRunParam) (api.EmptiedTrash, string, error) {
			noteDryRun(ctx, in.DryRun)
			out, err := h.empty(ctx, in.DryRun)
			var location string
			for _, purged := range out.Purged {
				if !in.DryRun && pendingLocation(purged.Operation) != "" {
					location = endpoint.ListOperations.Path
				}
			}
			return out, location, err
		})
}

// noteDryRun notes a dry run in the line of the audit log.
func noteDryRun(ctx context.Context, dryRun bool) {
	if dryRun {
		changeOf(ctx).addDetail("", "dry run")
	}
}

func (h handlers) empty(ctx context.Context, dryRun bool) (api.EmptiedTrash, error) {
	done := api.EmptiedTrash{Purged: []api.Outcome{}}
	for p := (api.Page{}); ; {
		list, err := h.Service.Trash(ctx, p)
		if err != nil {
			return done, err
		}
		for _, v := range list.Items {
			if v.State == dataset.StatePurging { // it is being destroyed already
				continue
			}
			out, err := h.Service.Submit(ctx, api.Request{
				ID: uuid.New(), Kind: dataset.OpPurge, Volume: v.ID.String(), DryRun: dryRun,
			})
			if ctx.Err() != nil {
				return done, ctx.Err()
			}
			if err != nil {
				done.Failed = append(done.Failed, api.Failure{Dataset: v.ID, Problem: *dataset.ProblemOf(err)})
				continue
			}
			done.Purged = append(done.Purged, out)
		}
		if list.Next == "" {
			return done, nil
		}
		p.After = list.Next
	}
}

// A list is read page by page: the parameter after of a request is the value of next in the previous answer. The
// service pages the lists that can be long. The server pages the lists that the service returns as a whole.

// errCursor is the reason why a cursor is refused.
func errCursor(p api.Page) error {
	return dataset.Errorf(dataset.ErrInvalid,
		"bad cursor after=%q: want the value of next in the previous page (read the list from its beginning)",
		dataset.Clip(p.After))
}

// paged answers with a page that the service returns. It refuses a cursor that the list cannot have.
func paged[T any](p api.Page, isCursor func(string) bool, get func() (api.List[T], error)) (l api.List[T], err error) {
	if p.After != "" && !isCursor(p.After) {
		return l, errCursor(p)
	}
	l, err = get()
	if l.Items == nil {
		l.Items = []T{} // an empty list is [] and not null
	}
	return l, err
}

// cutPage answers with a page of a list that the service returned as a whole. cursor returns the cursor of the item
// at an index. If no item has the cursor, the request is refused, because the item may have been removed.
func cutPage[T any](p api.Page, items []T, err error, cursor func(i int, item T) string) (l api.List[T], _ error) {
	if err != nil {
		return l, err
	}
	from := 0
	for i := range items {
		if p.After != "" && cursor(i, items[i]) == p.After {
			from = i + 1
		}
	}
	if p.After != "" && from == 0 {
		return l, errCursor(p)
	}
	l = api.List[T]{Items: append([]T{}, items[from:]...)}
	if size := p.Size(); len(l.Items) > size {
		l.Items = l.Items[:size]
		l.Next = cursor(from+size-1, l.Items[size-1])
	}
	return l, nil
}

// allItems answers with the whole result of a change, in the form of a list.
func allItems[T any](items []T, err error) (api.List[T], error) {
	if items == nil {
		items = []T{}
	}
	return api.List[T]{Items: items}, err
}

// isName reports whether a volume can have the name.
func isName(after string) bool { return dataset.CheckName(after) == nil }

func isUUID(after string) bool { return uuid.Validate(after) == nil }

// isSnapshot reports whether after is the cursor of a snapshot. Such a cursor ends with a slash and the UUID of the
// snapshot. Before that is the UUID of its dataset, or its time in the list of one dataset.
func isSnapshot(after string) bool {
	_, id, found := strings.Cut(after, "/")
	return found && isUUID(id)
}

// ordinal is the cursor of items without a name: the number of items before the next page.
func ordinal[T any](i int, _ T) string { return strconv.Itoa(i + 1) }

// volumeList is a list of volumes in one of two forms.
type volumeList struct {
	whole     api.List[api.Volume]
	summaries *api.List[api.VolumeSummary] // nil: the answer is whole
}

// Schema implements huma.SchemaProvider. The keys of a summary are some of those of the whole volume.
func (volumeList) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[api.List[api.Volume]](), true, "")
}

// unwrapList is a transformer of huma. It turns a list of volumes into the form that the client prefers.
func unwrapList(hc huma.Context, _ string, v any) (any, error) {
	l, ok := v.(volumeList)
	switch {
	case !ok:
		return v, nil
	case l.summaries == nil:
		return l.whole, nil
	}
	hc.SetHeader("Preference-Applied", hc.Header("Prefer"))
	return *l.summaries, nil
}
