package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// VolumeParam names a volume in a path.
type VolumeParam struct {
	Volume string `path:"volume" doc:"the volume: its name, or a unique prefix of its dataset's UUID" example:"db"`
}

// OperationParam chooses the ID of the operation that a change becomes.
type OperationParam struct {
	Operation uuid.UUID `query:"operation" doc:"ID of the operation to be, chosen by the caller so that a retry is known; made up when left out"`
}

func (p OperationParam) request(kind dataset.OpKind) Request {
	if p.Operation == uuid.Nil {
		p.Operation = uuid.New()
	}
	return Request{ID: p.Operation, Kind: kind}
}

// ForceParam overrides a protection.
type ForceParam struct {
	Force bool `query:"force" doc:"also what is protected"`
}

// FencedParam takes a person's word.
type FencedParam struct {
	Fenced string `query:"fenced" maxLength:"512" doc:"with force: the home, which is away, and of which who asks says that it writes no more: the data goes to the trash there"`
}

// CreateVolume asks for a volume.
type CreateVolume struct {
	Volume  string            `json:"volume" doc:"the spec: NAME, NAME@PROFILE or NAME@snapshot-PREFIX" example:"db@gold"`
	Options map[string]string `json:"options,omitempty" doc:"as with docker volume create -o"`
}

// ResizeVolume asks for another size.
type ResizeVolume struct {
	Size string `json:"size" doc:"the size to be" example:"20GiB"`
}

// RekeyVolume asks for a data key to be wrapped anew.
type RekeyVolume struct {
	OldKeyFile string `json:"old_key_file,omitempty" doc:"absolute and clean path of the file on the volume's home with the key that wraps it now, where that is no more where the profile says"`
}

// SetProfile asks for another profile.
type SetProfile struct {
	Profile string `json:"profile" doc:"the profile to be"`
}

// ProtectVolume says whether deletes are refused.
type ProtectVolume struct {
	Protect bool `json:"protect" doc:"whether deletes are refused"`
}

// ImportVolume asks for a volume with what lies in a folder of its host.
type ImportVolume struct {
	Path    string            `json:"path" doc:"the folder, on the host that the volume is made on: an absolute and clean path. One that contains, or lies in, a pool or Drover's own root is refused"`
	Live    bool              `json:"live,omitempty" doc:"the folder may be in use"`
	Options map[string]string `json:"options,omitempty" doc:"as with docker volume create -o"`
}

func (h handlers) volumes() {
	add(h, get("/v1/volumes", "list-volumes", "volumes", "List volumes by name"),
		func(ctx context.Context, in *Page) (*answer[List[Volume]], error) {
			return page(h.Service.Volumes(ctx, *in))
		})
	add(h, get("/v1/volumes/{volume}", "get-volume", "volumes", "Show a volume"),
		func(ctx context.Context, in *VolumeParam) (*answer[Volume], error) {
			return reply(h.Service.Volume(ctx, in.Volume))
		})
	add(h, post("/v1/volumes", "create-volume", "volumes", "Create a volume", "One that exists as asked is no error."),
		func(ctx context.Context, in *struct {
			OperationParam
			Body CreateVolume
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpCreate)
			req.Volume, req.Options = in.Body.Volume, in.Body.Options
			return h.submit(ctx, req)
		})
	add(h, del("/v1/volumes/{volume}", "delete-volume", "volumes", "Delete a volume",
		"Its profile says whether the data goes to the trash."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			ForceParam
			FencedParam
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpDelete)
			req.Volume, req.Force, req.Fenced = in.Volume, in.Force, in.Fenced
			return h.submit(ctx, req)
		})
}

// changes are the endpoints that change a volume that exists.
func (h handlers) changes() {
	add(h, post("/v1/volumes/{volume}/resize", "resize-volume", "volumes", "Resize a volume", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body ResizeVolume
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpResize)
			req.Volume, req.Size = in.Volume, in.Body.Size
			return h.submit(ctx, req)
		})
	add(h, post("/v1/volumes/{volume}/rekey", "rekey-volume", "volumes",
		"Wrap an encrypted volume's data key by the key that its profile has now", "Nothing of the data is touched."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body RekeyVolume
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpRekey)
			req.Volume, req.Path = in.Volume, in.Body.OldKeyFile
			return h.submit(ctx, req)
		})
	add(h, post("/v1/volumes/{volume}/rewrite", "rewrite-volume", "volumes",
		"Write a volume anew, so that it lies in few pieces",
		"It must not be in use, and takes room for a second copy; a mount ends it."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpRewrite)
			req.Volume = in.Volume
			return h.submit(ctx, req)
		})
	add(h, post("/v1/volumes/{volume}/set-profile", "set-volume-profile", "volumes",
		"Give a volume another profile", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body SetProfile
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpUpdate)
			req.Volume, req.Profile = in.Volume, in.Body.Profile
			return h.submit(ctx, req)
		})
	add(h, post("/v1/volumes/{volume}/protect", "protect-volume", "volumes",
		"Refuse deletes of a volume, or no more", ""),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body ProtectVolume
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpUpdate)
			req.Volume, req.Protect = in.Volume, &in.Body.Protect
			return h.submit(ctx, req)
		})
	add(h, post("/v1/volumes/{volume}/import", "import-volume", "volumes", "Create a volume from a folder",
		"The volume is named by the spec that it is to have."),
		func(ctx context.Context, in *struct {
			OperationParam
			VolumeParam
			Body ImportVolume
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpImport)
			req.Volume, req.Path, req.Live, req.Options = in.Volume, in.Body.Path, in.Body.Live, in.Body.Options
			return h.submit(ctx, req)
		})
}

func (h handlers) submit(ctx context.Context, req Request) (*answer[Outcome], error) {
	changeOf(ctx).asks(req)
	return reply(h.Service.Submit(ctx, req))
}

// page answers with a list; an empty one is [] and not null.
func page[T any](l List[T], err error) (*answer[List[T]], error) {
	if l.Items == nil {
		l.Items = []T{}
	}
	return reply(l, err)
}

// all answers with a list that is never long.
func all[T any](items []T, err error) (*answer[List[T]], error) {
	return page(List[T]{Items: items}, err)
}

func get(path, id, tag, summary string) huma.Operation {
	return huma.Operation{Method: http.MethodGet, Path: path, OperationID: id, Tags: []string{tag}, Summary: summary}
}

func post(path, id, tag, summary, description string) huma.Operation {
	return huma.Operation{
		Method:      http.MethodPost,
		Path:        path,
		OperationID: id,
		Tags:        []string{tag},
		Summary:     summary,
		Description: description,
	}
}

func del(path, id, tag, summary, description string) huma.Operation {
	return huma.Operation{
		Method:      http.MethodDelete,
		Path:        path,
		OperationID: id,
		Tags:        []string{tag},
		Summary:     summary,
		Description: description,
	}
}
