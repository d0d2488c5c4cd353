package pools

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/volumes"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// poolUse is a pool with the volumes that have their home in it, the fullest first.
type poolUse struct {
	Pool    api.Pool            `json:"pool"`
	Volumes []api.VolumeSummary `json:"volumes"`
}

// DFCommand makes drover df.
func DFCommand(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "df",
		SuggestFor: []string{"du", "space"},
		Short:      "Show how full the pools are, with the volumes of each",
		Long: `Show how full the pools are, and below each pool the volumes that have their
home in it, the largest first. USED, USE% and FREE of a volume are those of df
in its container, at most 15 seconds old. FREE is Avail there, and here at most
SIZE. USED includes the filesystem's own data, which comes in addition to SIZE.
IN POOL is the space that the volume occupies in its pool. The figures of the
pool itself also include snapshots, replicas and the trash (drover snapshot ls,
drover trash ls).`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.ReportFlags(cmd)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		list, err := use(cmd.Context(), c)
		if err != nil {
			return err
		}
		id := func(u poolUse) string { return u.Pool.ID.String() }
		return cli.PrintList(a, o, list, id, func(list []poolUse) *cli.Table { return useTable(a, list) })
	})
	return cmd
}

// use returns the pools in the order of drover pool ls, each with its volumes.
func use(ctx context.Context, c cli.Remote) ([]poolUse, error) {
	pools, err := c.Pools(ctx)
	if err != nil {
		return nil, err
	}
	all, err := cli.FetchAll(ctx, func(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
		p.Health = true
		return c.VolumeSummaries(ctx, p)
	})
	if err != nil {
		return nil, err
	}
	in := map[uuid.UUID][]api.VolumeSummary{}
	for _, v := range all {
		in[v.Pool] = append(in[v.Pool], v)
	}
	pools = slices.Clone(pools)
	slices.SortStableFunc(pools, func(x, y api.Pool) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.NodeName, y.NodeName))
	})
	list := make([]poolUse, 0, len(pools))
	for _, p := range pools {
		u := poolUse{Pool: p, Volumes: append([]api.VolumeSummary{}, in[p.ID]...)}
		slices.SortStableFunc(u.Volumes, func(x, y api.VolumeSummary) int {
			return cmp.Or(cmp.Compare(bytesInPool(y), bytesInPool(x)), strings.Compare(x.Volume, y.Volume))
		})
		list = append(list, u)
	}
	return list, nil
}

// bytesInPool returns the space that a volume occupies in its pool, or -1 if that is not known.
func bytesInPool(v api.VolumeSummary) dataset.Size {
	if v.Status == nil || v.Status.InPool == nil {
		return -1
	}
	return *v.Status.InPool
}

func useTable(a *cli.App, list []poolUse) *cli.Table {
	t := cli.NewTable("NAME", "NODE", "STATE", "SIZE", "USED", "USE%", "FREE", "IN POOL")
	for _, u := range list {
		size, used, percent, free := "", "", "", ""
		if st := u.Pool.Status; st != nil && st.Online {
			size, free = st.Size.Human(), st.Free.Human()
			if st.Size > 0 {
				used, percent = st.Usage().Used.Human(), fmt.Sprintf("%d%%", st.Usage().Percent())
			}
		}
		t.Row(u.Pool.Name, u.Pool.NodeName, stateLine(u.Pool), size, used, percent, free, "")
		for _, v := range u.Volumes {
			percent, free := "", ""
			if v.Status != nil && v.Status.Usage != nil && v.Size > 0 {
				percent = fmt.Sprintf("%d%%", v.Status.Usage.Percent())
				// The filesystem is larger than the size by its metadata, and some of these bytes can be free.
				free = min(v.Status.Usage.Available, v.Size).Human()
			}
			state := ""
			if is, _ := volumes.Fullness(v.Status, v.Size); is != dataset.NotFull {
				state = is.String()
			}
			t.Row("  "+cli.ShortName(v.Volume), "", state, cli.SizeOr(v.Size, "no limit"),
				volumes.UsedSize(v.Status, v.Size), percent, free, volumes.SizeInPool(v.Status))
		}
	}
	colors := a.Palette()
	t.Paint(2, func(s string) string { return paintState(colors, s) })
	return t
}
