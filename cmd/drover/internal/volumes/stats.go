package volumes

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// statsPause is the time between two readings of the counters.
const statsPause = time.Second

// clearScreen moves the cursor of a terminal to the first line and erases everything below.
const clearScreen = "\x1b[H\x1b[J"

// volumeStats is how much a mounted volume is used. It is an item of the JSON output.
type volumeStats struct {
	Dataset uuid.UUID      `json:"dataset"`
	Volume  string         `json:"volume"`
	Node    string         `json:"node"`
	Backend string         `json:"backend,omitempty"`
	Size    dataset.Size   `json:"size"`
	Usage   *dataset.Usage `json:"usage,omitempty"`
	// Read and Write are nil if the volume has no block device, or if it was attached between the two readings.
	Read  *ioRate `json:"read,omitempty"`
	Write *ioRate `json:"write,omitempty"`
}

// ioRate is how much a block device did per second, in one direction.
type ioRate struct {
	Operations float64 `json:"operations"` // completed operations per second
	Bytes      float64 `json:"bytes"`      // bytes per second
	// Latency is the mean duration of the operations in seconds. It is 0 if there were none.
	Latency float64 `json:"latency"`
}

func newVolumeStatsCmd(a *cli.App) *cobra.Command {
	m := &statsMeter{app: a}
	id := func(s volumeStats) string { return s.Dataset.String() }
	cmd := cli.New(a, cli.List[volumeStats]{
		Use:   "stats [NAME...]",
		Short: "Show how fast mounted volumes are read and written",
		Long: `Show how fast the mounted volumes of the server's host are read and written.
The rates are those of the last second; with --watch, the table is repeated
until the command is interrupted. Each node of a cluster knows only the volumes
that it has mounted: run the command there.

The figures are those of the block device of each volume, below the page cache:
a read from memory is not counted, and a write when it reaches the device. The
latency is the mean duration of an operation of the device. Only volumes of the
backends loop and lvm have a block device. Others show -.`,
		ValidArgs: cli.Complete(a, cli.VolumeWords),
		Fetch:     m.fetch,
		NoWatch:   true,
		ID:        id,
		Columns:   func([]volumeStats) []cli.Column[volumeStats] { return statsColumns() },
		Compare:   cli.By(func(s volumeStats) string { return s.Volume }),
		Labels:    volumeStatsLabels,
	})
	cmd.SuggestFor = []string{"top", "iostat"}
	cmd.Flags().BoolVarP(&m.watch, "watch", "w", false, "repeat the table every second")
	once := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for {
			if err := once(cmd, args); err != nil || !m.watch {
				return err
			}
		}
	}
	return cmd
}

func volumeStatsLabels(ctx context.Context, c cli.Remote) (func(volumeStats) map[string]string, error) {
	of, err := cli.VolumeLabels(ctx, c)
	return func(s volumeStats) map[string]string { return of(s.Dataset) }, err
}

// statsMeter computes rates from two readings of the counters. With --watch, each reading is also the first one of the
// next table.
type statsMeter struct {
	app      *cli.App
	watch    bool
	previous map[uuid.UUID]api.VolumeIO // nil before the first reading
}

// fetch implements cli.List.Fetch.
func (m *statsMeter) fetch(cmd *cobra.Command, q cli.ListQuery) ([]volumeStats, error) {
	c, err := m.app.Connect()
	if err != nil {
		return nil, err
	}
	ctx := cmd.Context()
	if m.previous == nil {
		if m.previous, err = readCounters(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := m.app.Sleep(ctx, statsPause); err != nil {
		return nil, err
	}
	current, err := readCounters(ctx, c)
	if err != nil {
		return nil, err
	}
	volumes, err := mountedHere(ctx, c, current, q.Args)
	if err != nil {
		return nil, err
	}
	list := make([]volumeStats, 0, len(volumes))
	for _, v := range volumes {
		list = append(list, statsOf(v, m.previous[v.ID], current[v.ID]))
	}
	m.previous = current
	if m.watch && cli.IsTerminal(m.app.Out) {
		_, err = fmt.Fprint(m.app.Out, clearScreen)
	}
	return list, err
}

func readCounters(ctx context.Context, c cli.Remote) (map[uuid.UUID]api.VolumeIO, error) {
	list, err := c.VolumeIO(ctx)
	if err != nil {
		return nil, err
	}
	counters := make(map[uuid.UUID]api.VolumeIO, len(list))
	for _, v := range list {
		counters[v.Dataset] = v
	}
	return counters, nil
}

// mountedHere returns the volumes that the host of the server has mounted. If names are given, it returns only the
// named volumes, and fails if one of them is not mounted there.
func mountedHere(
	ctx context.Context, c cli.Remote, counters map[uuid.UUID]api.VolumeIO, names []string,
) (list []api.Volume, err error) {
	version, err := c.Version(ctx)
	if err != nil {
		return nil, err
	}
	mounted := func(v api.Volume) bool {
		_, counted := counters[v.ID]
		return counted || v.Node == version.Node && v.Status != nil && v.Status.Mounted
	}
	if len(names) == 0 {
		volumes, err := cli.FetchAll(ctx, c.Volumes)
		for _, v := range volumes {
			if mounted(v) {
				list = append(list, v)
			}
		}
		return list, err
	}
	seen := map[uuid.UUID]bool{}
	for _, name := range names {
		v, err := c.Volume(ctx, name)
		if err != nil {
			return nil, err
		}
		if !mounted(v) {
			return nil, dataset.Errorf(dataset.ErrNotFound, "volume %s is not mounted on node %s; its home is node %s",
				v.Volume, version.Node, cmp.Or(v.Node, "unknown"))
		}
		if !seen[v.ID] {
			seen[v.ID] = true
			list = append(list, v)
		}
	}
	return list, nil
}

// statsOf computes the rates of a volume from two readings. A reading without a time is missing.
func statsOf(v api.Volume, was, is api.VolumeIO) volumeStats {
	s := volumeStats{
		Dataset: v.ID,
		Volume:  v.Volume,
		Node:    cmp.Or(is.Node, v.Node),
		Backend: v.Backend,
		Size:    v.Size,
	}
	if v.Status != nil {
		s.Usage = v.Status.Usage
	}
	if took := is.At.Sub(was.At); !was.At.IsZero() && !is.At.IsZero() && took > 0 {
		s.Read, s.Write = rateOf(was.Read, is.Read, took), rateOf(was.Write, is.Write, took)
	}
	return s
}

// rateOf returns nil if a counter has become smaller: the device was detached and attached again.
func rateOf(was, is api.IO, took time.Duration) *ioRate {
	if is.Operations < was.Operations || is.Bytes < was.Bytes || is.Time < was.Time {
		return nil
	}
	operations := float64(is.Operations - was.Operations)
	r := &ioRate{
		Operations: operations / took.Seconds(),
		Bytes:      float64(is.Bytes-was.Bytes) / took.Seconds(),
	}
	if operations > 0 {
		r.Latency = time.Duration(is.Time-was.Time).Seconds() / operations
	}
	return r
}

func statsColumns() []cli.Column[volumeStats] {
	type stats = volumeStats
	type column = cli.Column[stats]
	columns := []column{cli.Volume("NAME", func(s stats) string { return s.Volume })}
	columns = append(columns, rateColumns("READ", func(s stats) *ioRate { return s.Read })...)
	columns = append(columns, rateColumns("WRITE", func(s stats) *ioRate { return s.Write })...)
	return append(columns,
		column{Header: "USED", Cell: func(s stats) string {
			if s.Usage == nil {
				return ""
			}
			return s.Usage.Used.Human()
		}, Compare: cli.By(func(s stats) dataset.Size { return s.Usage.Used })},
		column{Header: "SIZE", Cell: func(s stats) string { return cli.SizeOr(s.Size, "no limit") },
			Compare: cli.By(func(s stats) dataset.Size { return cli.Limit(s.Size) })},
		column{Header: "USE%", Cell: func(s stats) string {
			if s.Usage == nil {
				return ""
			}
			return fmt.Sprintf("%d%%", s.Usage.Percent())
		}, Compare: cli.By(func(s stats) int { return s.Usage.Percent() })},
		column{Header: "NODE", Cell: func(s stats) string { return s.Node }},
		column{Header: "BACKEND", Wide: true, Cell: func(s stats) string { return s.Backend }},
		column{Header: "UUID", Wide: true, Cell: func(s stats) string { return s.Dataset.String() }},
	)
}

// rateColumns returns the columns of one direction: operations and bytes per second, and the latency.
func rateColumns(direction string, rate func(volumeStats) *ioRate) []cli.Column[volumeStats] {
	column := func(header string, cell func(*ioRate) string, value func(*ioRate) float64) cli.Column[volumeStats] {
		return cli.Column[volumeStats]{
			Header: header,
			Cell: func(s volumeStats) string {
				if r := rate(s); r != nil {
					return cell(r)
				}
				return ""
			},
			Compare: cli.By(func(s volumeStats) float64 { return value(rate(s)) }),
		}
	}
	return []cli.Column[volumeStats]{
		column(direction+"S/S", func(r *ioRate) string {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", r.Operations), ".0")
		}, func(r *ioRate) float64 { return r.Operations }),
		column(direction+"/S", func(r *ioRate) string { return dataset.Size(r.Bytes).Human() },
			func(r *ioRate) float64 { return r.Bytes }),
		column(direction+" LATENCY", func(r *ioRate) string {
			if r.Latency == 0 {
				return ""
			}
			return fmt.Sprintf("%.2fms", r.Latency*1000)
		}, func(r *ioRate) float64 { return r.Latency }),
	}
}
