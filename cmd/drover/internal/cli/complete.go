package cli

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// CompleteWithin bounds how long a completion waits for the server.
const CompleteWithin = 2 * time.Second

// candidates lists the possible values of an argument, each with a description after a tab.
type candidates func(ctx context.Context, c Remote, given []string, begun string) ([]string, error)

// Complete completes the arguments of a command, each from one list. Further arguments have no
// completions, and no argument has any while the server does not answer.
func Complete(a *App, lists ...candidates) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(given) >= len(lists) {
			return nil, none
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), CompleteWithin)
		defer cancel()
		c, err := a.Connect()
		if err != nil {
			return nil, none
		}
		all, err := lists[len(given)](ctx, c, given, begun)
		if err != nil {
			return nil, none
		}
		var fit []string
		for _, w := range all {
			if strings.HasPrefix(w, begun) {
				word, description, _ := strings.Cut(w, "\t")
				fit = append(fit, Clean(word)+"\t"+Clean(description))
			}
		}
		return fit, none
	}
}

// CompleteEach completes every argument from one list.
func CompleteEach(a *App, list candidates) cobra.CompletionFunc {
	first := Complete(a, list)
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return first(cmd, nil, begun)
	}
}

// NoWords lists no candidates. It is used for an argument that is a new name or free text.
func NoWords(context.Context, Remote, []string, string) ([]string, error) { return nil, nil }

// VolumeWords lists the names of volumes.
func VolumeWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := FetchAll(ctx, c.Volumes)
	var out []string
	for _, v := range list {
		out = append(out, v.Volume+"\tprofile "+v.Profile.Name)
	}
	return out, err
}

// NewVolumeWords completes a new volume's name after its "@".
func NewVolumeWords(ctx context.Context, c Remote, _ []string, begun string) ([]string, error) {
	name, _, at := strings.Cut(begun, "@")
	if !at {
		return nil, nil
	}
	out, err := ProfileWords(ctx, c, nil, "")
	for i := range out {
		out[i] = name + "@" + out[i]
	}
	return out, err
}

// ProfileWords lists the names of profiles.
func ProfileWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := c.Profiles(ctx)
	var out []string
	for _, p := range list {
		out = append(out, p.Name+"\t"+p.Description)
	}
	return out, err
}

// SnapshotWords completes snapshots by UUID. If the previous argument is a volume, it also completes them by name.
func SnapshotWords(ctx context.Context, c Remote, given []string, _ string) ([]string, error) {
	ref := ""
	if len(given) > 0 {
		ref = given[len(given)-1]
	}
	list, err := FetchAll(ctx, SnapshotsOf(c, ref))
	var out []string
	for _, s := range list {
		description := strings.TrimSpace(s.Volume + " " + s.Name + " " + s.Created.Format(time.DateTime))
		if ref != "" && s.Name != "" {
			out = append(out, s.Name+"\t"+description)
		}
		out = append(out, s.ID.String()+"\t"+description)
	}
	return out, err
}

// TrashWords lists the UUIDs of datasets in the trash.
func TrashWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := FetchAll(ctx, c.Trash)
	var out []string
	for _, v := range list {
		out = append(out, v.ID.String()+"\twas "+v.Volume)
	}
	return out, err
}

// PoolWords lists the names of pools.
func PoolWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := c.Pools(ctx)
	var out []string
	for _, p := range list {
		out = append(out, p.Name+"\t"+p.Backend+" at "+p.Path)
	}
	return out, err
}

// RepositoryWords lists the names of the repositories for backups.
func RepositoryWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := c.Repositories(ctx)
	var out []string
	for _, r := range list {
		out = append(out, r.Name+"\t"+r.URL)
	}
	return out, err
}

// NodeWords lists the names of nodes.
func NodeWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := c.NodeList(ctx, "")
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out, err
}

// OperationWords lists the UUIDs of operations.
func OperationWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := FetchAll(ctx, c.Operations)
	var out []string
	for _, op := range list {
		out = append(out, op.ID.String()+"\t"+op.Action()+" "+op.Volume)
	}
	return out, err
}

// SnapshotsOf fetches pages of the snapshots of one volume or, with an empty
// ref, of all.
func SnapshotsOf(c Remote, ref string) func(context.Context, api.Page) (api.List[dataset.Snapshot], error) {
	return func(ctx context.Context, p api.Page) (api.List[dataset.Snapshot], error) {
		return c.Snapshots(ctx, ref, p)
	}
}

// VolumeLabels returns a function that returns the labels of the volume or of the dataset in the trash with a UUID.
func VolumeLabels(ctx context.Context, c Remote) (func(id uuid.UUID) map[string]string, error) {
	labels := map[uuid.UUID]map[string]string{}
	for _, page := range []func(context.Context, api.Page) (api.List[api.Volume], error){c.Volumes, c.Trash} {
		list, err := FetchAll(ctx, page)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			labels[v.ID] = v.Labels
		}
	}
	return func(id uuid.UUID) map[string]string { return labels[id] }, nil
}
