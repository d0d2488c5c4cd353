package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// completeWithin bounds how long a press of TAB may hang on the server.
const completeWithin = 2 * time.Second

// candidates lists what an argument can be, each with a description after a tab.
type candidates func(ctx context.Context, c remote, given []string, begun string) ([]string, error)

// complete completes a command's arguments, each from its own list; further
// arguments, and all while the server does not answer, complete to nothing.
func complete(a *app, lists ...candidates) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(given) >= len(lists) {
			return nil, none
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		c, err := a.connect()
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
				word, about, _ := strings.Cut(w, "\t")
				fit = append(fit, show.Clean(word)+"\t"+show.Clean(about))
			}
		}
		return fit, none
	}
}

// completeEach completes every argument from one list.
func completeEach(a *app, list candidates) cobra.CompletionFunc {
	first := complete(a, list)
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return first(cmd, nil, begun)
	}
}

// nothing completes an argument that is new or free text.
func nothing(context.Context, remote, []string, string) ([]string, error) { return nil, nil }

func volumeWords(ctx context.Context, c remote, _ []string, _ string) ([]string, error) {
	list, err := all(ctx, c.Volumes)
	var out []string
	for _, v := range list {
		out = append(out, v.Volume+"\tprofile "+v.Profile.Name)
	}
	return out, err
}

// specWords completes a new volume's name after its "@".
func specWords(ctx context.Context, c remote, _ []string, begun string) ([]string, error) {
	name, _, at := strings.Cut(begun, "@")
	if !at {
		return nil, nil
	}
	out, err := profileWords(ctx, c, nil, "")
	for i := range out {
		out[i] = name + "@" + out[i]
	}
	return out, err
}

func profileWords(ctx context.Context, c remote, _ []string, _ string) ([]string, error) {
	list, err := c.Profiles(ctx)
	var out []string
	for _, p := range list {
		out = append(out, p.Name+"\t"+p.Description)
	}
	return out, err
}

// snapshotWords completes snapshots by UUID, and by name where the volume is
// the argument before.
func snapshotWords(ctx context.Context, c remote, given []string, _ string) ([]string, error) {
	ref := ""
	if len(given) > 0 {
		ref = given[len(given)-1]
	}
	list, err := all(ctx, snapshotsOf(c, ref))
	var out []string
	for _, s := range list {
		about := strings.TrimSpace(s.Volume + " " + s.Name + " " + s.Created.Format(time.DateTime))
		if ref != "" && s.Name != "" {
			out = append(out, s.Name+"\t"+about)
		}
		out = append(out, s.ID.String()+"\t"+about)
	}
	return out, err
}

// diffWords completes snapshots of the volume that is the first argument, or of all
// where that is a snapshot.
func diffWords(ctx context.Context, c remote, given []string, begun string) ([]string, error) {
	words, err := snapshotWords(ctx, c, given[:1], begun)
	if err != nil || len(words) == 0 {
		return anySnapshotWords(ctx, c, given, begun)
	}
	return words, nil
}

// anySnapshotWords completes snapshots of all volumes.
func anySnapshotWords(ctx context.Context, c remote, _ []string, _ string) ([]string, error) {
	return snapshotWords(ctx, c, nil, "")
}

// sourceWords completes what a clone can be made of.
func sourceWords(ctx context.Context, c remote, _ []string, _ string) ([]string, error) {
	volumes, err := volumeWords(ctx, c, nil, "")
	if err != nil {
		return nil, err
	}
	snaps, err := anySnapshotWords(ctx, c, nil, "")
	return append(volumes, snaps...), err
}

func trashWords(ctx context.Context, c remote, _ []string, _ string) ([]string, error) {
	list, err := all(ctx, c.Trash)
	var out []string
	for _, v := range list {
		out = append(out, v.ID.String()+"\twas "+v.Volume)
	}
	return out, err
}

func poolWords(ctx context.Context, c remote, _ []string, _ string) ([]string, error) {
	list, err := c.Pools(ctx)
	var out []string
	for _, p := range list {
		out = append(out, p.Name+"\t"+p.Backend+" at "+p.Path)
	}
	return out, err
}

func nodeWords(ctx context.Context, c remote, _ []string, _ string) ([]string, error) {
	list, err := c.NodeList(ctx, "")
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out, err
}

func operationWords(ctx context.Context, c remote, _ []string, _ string) ([]string, error) {
	list, err := all(ctx, c.Operations)
	var out []string
	for _, op := range list {
		if !op.State.Final() {
			out = append(out, op.ID.String()+"\t"+string(op.Kind)+" "+op.Volume)
		}
	}
	return out, err
}

// snapshotsOf fetches pages of the snapshots of one volume or, with an empty
// ref, of all.
func snapshotsOf(c remote, ref string) func(context.Context, api.Page) (api.List[dataset.Snapshot], error) {
	return func(ctx context.Context, p api.Page) (api.List[dataset.Snapshot], error) {
		return c.Snapshots(ctx, ref, p)
	}
}
