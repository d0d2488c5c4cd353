package volumes

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// listed is a volume of drover volume ls. A table only needs the summary, which is much smaller.
type listed struct {
	api.VolumeSummary
	whole *api.Volume // only for -o json and yaml
}

func newVolumeLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[listed]{
		Short: "List the volumes",
		Long: `List the volumes. USED and USE% are those of df in the container, at most 15
seconds old, or when the volume was last mounted. IN POOL is the space
that the volume occupies in its pool.`,
		Fetch:   cli.FromServer(a, fetchListed),
		ID:      func(v listed) string { return v.ID.String() },
		Columns: func(volumes []listed) []cli.Column[listed] { return volumeColumns(a, volumes) },
		Object:  func(v listed) any { return v.whole },
		Compare: cli.By(func(v listed) string { return v.Volume }),
		Labels:  cli.OwnLabels(func(v listed) map[string]string { return v.Labels }),
	})
}

func fetchListed(ctx context.Context, c cli.Remote, q cli.ListQuery) (list []listed, err error) {
	if !q.Objects {
		summaries, err := cli.FetchAll(ctx, c.VolumeSummaries)
		for i := range summaries {
			list = append(list, listed{VolumeSummary: summaries[i]})
		}
		return list, err
	}
	volumes, err := cli.FetchAll(ctx, c.Volumes)
	for i := range volumes {
		list = append(list, listed{volumes[i].Summary(), &volumes[i]})
	}
	return list, err
}

func volumeColumns(a *cli.App, volumes []listed) []cli.Column[listed] {
	return []cli.Column[listed]{
		cli.Volume("NAME", func(v listed) string { return v.Volume }),
		{Header: "PROFILE", Cell: func(v listed) string { return v.Profile.Name }},
		{Header: "SIZE", Cell: func(v listed) string { return cli.SizeOr(v.Size, "no limit") },
			Compare: cli.By(func(v listed) dataset.Size { return cli.Limit(v.Size) })},
		{Header: "USED", Cell: func(v listed) string { return usedSize(v.Status, v.Size) },
			Compare: cli.By(func(v listed) dataset.Size { return *v.Status.Used })},
		{Header: "USE%", Cell: func(v listed) string { return percentUsed(v.Status) },
			Compare: cli.By(func(v listed) int { return v.Status.Usage.Percent() })},
		{Header: "IN POOL", Cell: func(v listed) string { return sizeInPool(v.Status) },
			Compare: cli.By(func(v listed) dataset.Size { return *v.Status.InPool })},
		{Header: "STATUS", Cell: func(v listed) string { return status(&v.VolumeSummary) }, Paint: paintStatus(a)},
		{Header: "POOL", Cell: func(v listed) string { return v.PoolName }},
		{Header: "NODE", Cell: func(v listed) string { return v.Node }},
		cli.UUID("DATASET", volumes, func(v listed) uuid.UUID { return v.ID }),
		{Header: "SNAPSHOTS", Cell: func(v listed) string { return strconv.Itoa(v.Snapshots) },
			Compare: cli.By(func(v listed) int { return v.Snapshots })},
		cli.Time(a, "CREATED", func(v listed) time.Time { return v.Created }),
		{Header: "BACKEND", Wide: true, Cell: func(v listed) string { return v.Backend }},
		{Header: "PROTECTED", Wide: true, Cell: func(v listed) string { return cli.YesNo(v.Protected) }},
		{Header: "ACCESS", Wide: true, Cell: func(v listed) string { return cli.AccessLine(v.Profile.Access) }},
		{Header: "LABELS", Wide: true,
			Cell: func(v listed) string { return strings.Join(cli.LabelLines(v.Labels), ",") }},
		{Header: "ALIASES", Wide: true, Cell: func(v listed) string { return strings.Join(v.Aliases, ",") }},
		{Header: "UUID", Wide: true, Cell: func(v listed) string { return v.ID.String() }},
	}
}

// paintStatus returns a function that colours the status of a volume.
func paintStatus(a *cli.App) func(string) string {
	p := a.Palette()
	return func(s string) string {
		switch {
		case s == statusProblem, s == statusOffline, s == statusUnreachable,
			strings.HasSuffix(s, ", "+dataset.Full.String()):
			return p.Red(s)
		case s == statusUnknown, strings.HasSuffix(s, dataset.NearlyFull.String()):
			return p.Yellow(s)
		}
		return s
	}
}

// ShortDatasets returns a function that shortens the UUIDs of these volumes and keeps them unique.
func ShortDatasets(volumes []api.Volume) func(uuid.UUID) string {
	ids := make([]uuid.UUID, len(volumes))
	for i, v := range volumes {
		ids[i] = v.ID
	}
	return cli.Shorten(ids)
}

// Values that status returns.
const (
	statusUnknown = "unknown"
	statusProblem = "problem"
	statusOffline = "offline" // the pool is offline
	// statusUnreachable means that the home of the volume is unreachable. Its last report may be outdated.
	statusUnreachable = "unreachable"
)

// status returns the state of a volume in a few words: its use, and how full it is if little space is left.
func status(v *api.VolumeSummary) string {
	if v.Unreachable {
		return statusUnreachable
	}
	if is, _ := Fullness(v.Status, v.Size); is != dataset.NotFull && v.Status.Problem == "" {
		return useOf(v) + ", " + is.String()
	}
	return useOf(v)
}

// useOf returns in a word or two how a volume is used, or that it cannot be used.
func useOf(v *api.VolumeSummary) string {
	switch st := v.Status; {
	case st == nil:
		return statusUnknown
	case strings.HasPrefix(st.Problem, "pool "+v.PoolName+" is offline"):
		return statusOffline
	case st.Problem != "":
		return statusProblem
	case countSharedMounts(v) > 0:
		return sharedMountStatus(v)
	case len(st.Mounts) > 0:
		return fmt.Sprintf("in use by %d", len(st.Mounts))
	case st.Mounted:
		return "mounted"
	}
	return "idle"
}

// usedSize returns how much space the files of a volume use, as df shows it in the volume, or "" if that is not known.
// st is the status of the volume; nil if it is not reported. The result is at most the size of the volume, if it has
// one: the filesystem is larger than that by its metadata.
func usedSize(st *dataset.DatasetStatus, size dataset.Size) string {
	if st == nil || st.Used == nil {
		return ""
	}
	used := *st.Used
	if size > 0 {
		used = min(used, size)
	}
	return used.Human()
}

// sizeInPool returns the space that a volume occupies in its pool, or "" if that is not known. st is the status of the
// volume; nil if it is not reported.
func sizeInPool(st *dataset.DatasetStatus) string {
	if st == nil || st.InPool == nil {
		return ""
	}
	return st.InPool.Human()
}

// percentUsed returns how many percent of a volume are used, as df shows them. It returns "" if that is not known, or
// if the volume has no limit. st is the status of the volume; nil if it is not reported.
func percentUsed(st *dataset.DatasetStatus) string {
	if st == nil || st.Usage == nil {
		return ""
	}
	return strconv.Itoa(st.Usage.Percent()) + "%"
}

// Fullness returns the state of a volume of a size, with a text such as "FULL: 98% of 20GiB used". The text is "" if
// the volume has enough space. st is the status of the volume; nil if it is not reported.
func Fullness(st *dataset.DatasetStatus, size dataset.Size) (is dataset.Fullness, text string) {
	if st == nil || st.Usage == nil || st.Fullness == dataset.NotFull {
		return dataset.NotFull, ""
	}
	return st.Fullness, st.Fullness.String() + ": " + st.Usage.Describe(size)
}

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
