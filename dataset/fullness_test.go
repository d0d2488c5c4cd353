package dataset_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

func TestUsagePercent(t *testing.T) {
	for _, c := range []struct {
		used, available dataset.Size
		want            int
	}{
		{0, 0, 0},
		{0, 100, 0},
		{1, 1 << 40, 1}, // df rounds up
		{84, 16, 84},
		{841, 159, 85},
		{85, 15, 85},
		{9999, 1, 100},
		{100, 0, 100},
		{-5, 100, 0}, // no agent reports this, but it must not fail
		{100, -5, 100},
		{math.MaxInt64, math.MaxInt64, 50},
	} {
		if got := (dataset.Usage{Used: c.used, Available: c.available}).Percent(); got != c.want {
			t.Errorf("%d used, %d available: %d%%, want %d%%", c.used, c.available, got, c.want)
		}
	}
}

func TestFullness(t *testing.T) {
	const none, nearly, full = dataset.NotFull, dataset.NearlyFull, dataset.Full
	for _, c := range []struct {
		percent, warnAt int
		was, want       dataset.Fullness
	}{
		{84, 0, none, none},
		{85, 0, none, nearly},
		{96, 0, none, nearly},
		{97, 0, none, full},
		{100, 0, nearly, full},
		// A state ends only clearly below its threshold.
		{83, 0, nearly, nearly},
		{82, 0, nearly, none},
		{95, 0, full, full},
		{94, 0, full, nearly},
		{83, 0, full, nearly},
		{82, 0, full, none},
		// The threshold of the profile.
		{50, 50, none, nearly},
		{49, 50, none, none},
		{97, 50, none, full},
		{97, 98, none, none}, // not full before it is nearly full
		{98, 98, none, full},
		{99, 100, none, none},
		{100, 100, none, full},
	} {
		u := dataset.Usage{Used: dataset.Size(c.percent), Available: dataset.Size(100 - c.percent)}
		if got := u.Fullness(c.warnAt, c.was); got != c.want {
			t.Errorf("%d%%, threshold %d%%, was %q: %q, want %q", c.percent, c.warnAt, c.was, got, c.want)
		}
		inodes := dataset.Usage{Available: 100, Inodes: 100, InodesUsed: int64(c.percent)}
		if got := inodes.Fullness(c.warnAt, c.was); got != c.want {
			t.Errorf("%d%% of the inodes, threshold %d%%, was %q: %q, want %q", c.percent, c.warnAt, c.was, got, c.want)
		}
	}
}

func TestUsageDescription(t *testing.T) {
	u := dataset.Usage{Used: 88, Available: 12, Inodes: 64, InodesUsed: 3}
	if got := u.Describe(20 * dataset.GiB); got != "88% of 20GiB used" {
		t.Error(got)
	}
	if u.InodesUsed = 60; u.Describe(20*dataset.GiB) != "94% of 64 inodes used" {
		t.Error(u.Describe(20 * dataset.GiB))
	}
	d := dataset.Dataset{Volume: "db", Size: 20 * dataset.GiB}
	if got := d.GrowCommand(); got != "drover volume resize db 30GiB" {
		t.Error(got)
	}
}

func TestOvercommit(t *testing.T) {
	pool := dataset.PoolStatus{Size: 100 * dataset.GiB, Provisioned: 120 * dataset.GiB}
	if got := dataset.FormatRatio(pool.OvercommitRatio()); got != "1.2" {
		t.Error(got)
	}
	if got := pool.WhyOvercommitted(dataset.TiB); got != "" {
		t.Errorf("without a policy: %s", got)
	}
	pool.Overcommit = 1.5
	if got := pool.WhyOvercommitted(30 * dataset.GiB); got != "" {
		t.Errorf("up to the policy: %s", got)
	}
	const want = "its volumes may become 120GiB large and it has 100GiB, and 31GiB more would exceed its overcommit of 1.5"
	if got := pool.WhyOvercommitted(31 * dataset.GiB); got != want {
		t.Error(got)
	}
	if got := pool.WhyOvercommitted(0); got != "" {
		t.Errorf("a volume without a limit: %s", got)
	}
	for ratio, good := range map[float64]bool{0: true, 0.01: true, 1: true, 1000: true, 0.001: false, -1: false, 1001: false, math.NaN(): false} {
		if err := dataset.CheckOvercommit(ratio); (err == nil) != good {
			t.Errorf("%v: %v", ratio, err)
		}
	}
}

// A larger volume does not help if its pool has no space.
func TestSpaceHintNamesThePoolThatLimitsAVolume(t *testing.T) {
	d := dataset.Dataset{Volume: "db", Size: 20 * dataset.GiB}
	nearly := dataset.Usage{Used: 18 * dataset.GiB, Available: 2 * dataset.GiB}
	for name, c := range map[string]struct {
		pool *dataset.PoolStatus
		want string
	}{
		"pool unknown":        {nil, d.GrowCommand()},
		"pool without a size": {&dataset.PoolStatus{}, d.GrowCommand()},
		"pool with space":     {&dataset.PoolStatus{Size: 100 * dataset.GiB, Free: 50 * dataset.GiB}, d.GrowCommand()},
		"pool is nearly full": {&dataset.PoolStatus{Size: 100 * dataset.GiB, Free: 10 * dataset.GiB}, d.GrowCommand()},
		"pool is full":        {&dataset.PoolStatus{Size: 200 * dataset.GiB, Free: 4 * dataset.GiB}, "drover pool inspect fast"},
		"pool is smaller":     {&dataset.PoolStatus{Size: 25*dataset.GiB + 1, Free: 5 * dataset.GiB}, "drover volume resize db 25GiB"},
		"pool has that size":  {&dataset.PoolStatus{Size: 20 * dataset.GiB, Free: 5 * dataset.GiB}, "drover pool inspect fast"},
		"pool has less":       {&dataset.PoolStatus{Size: 10 * dataset.GiB, Free: dataset.GiB}, "drover pool inspect fast"},
	} {
		in := dataset.Room{Pool: "fast", Status: c.pool}
		hint := d.SpaceHint(in, nearly)
		if got := d.SpaceCommands(in, nearly)[0]; got != c.want || !strings.Contains(hint, c.want) {
			t.Errorf("%s: %s, %s", name, got, hint)
		}
	}
	inodes := dataset.Usage{Used: 3 * dataset.GiB, Available: 7 * dataset.GiB, Inodes: 100, InodesUsed: 99}
	pool := dataset.PoolStatus{Size: 100 * dataset.GiB, Free: 6 * dataset.GiB}
	if got := d.SpaceCommands(dataset.Room{Pool: "fast", Status: &pool}, inodes)[0]; got != d.GrowCommand() {
		t.Errorf("a volume without inodes: %s, want %s", got, d.GrowCommand())
	}
}

// The advice to enlarge a volume respects the overcommit of its pool, and names it if it prevents the growth.
func TestSpaceHintRespectsOvercommit(t *testing.T) {
	d := dataset.Dataset{Volume: "db", Size: 20 * dataset.GiB}
	nearly := dataset.Usage{Used: 18 * dataset.GiB, Available: 2 * dataset.GiB}
	for _, c := range []struct {
		ratio       float64
		provisioned dataset.Size
		want, hint  string
	}{
		{0, 300 * dataset.GiB, d.GrowCommand(), d.GrowCommand()},
		{1.5, 140 * dataset.GiB, d.GrowCommand(), d.GrowCommand()},
		{1.5, 145 * dataset.GiB, "drover volume resize db 25GiB", "drover volume resize db 25GiB"},
		{1.5, 149 * dataset.GiB, "drover pool inspect fast", "may become 149GiB large, and its overcommit of 1.5 allows at most " +
			"150GiB: allow more (drover pool set fast --overcommit RATIO)"},
		{1, 150 * dataset.GiB, "drover pool inspect fast", "overcommit of 1 allows at most 100GiB"},
	} {
		pool := dataset.PoolStatus{
			Size: 100 * dataset.GiB, Free: 50 * dataset.GiB, Overcommit: c.ratio, Provisioned: c.provisioned,
		}
		in := dataset.Room{Pool: "fast", Status: &pool}
		hint := d.SpaceHint(in, nearly)
		if got := d.SpaceCommands(in, nearly)[0]; got != c.want || !strings.Contains(hint, c.hint) {
			t.Errorf("overcommit %v, %s provisioned: %s, %s", c.ratio, c.provisioned, got, hint)
		}
		if _, command, is := strings.Cut(hint, "drover volume resize db "); is {
			if size, err := dataset.ParseSize(command); err != nil || pool.WhyOvercommitted(size-d.Size) != "" {
				t.Errorf("%s would be refused: %v", hint, err)
			}
		}
	}
}

// A mounted volume whose filesystem cannot grow while mounted gets the way round: stop, resize, start.
func TestSpaceHintOfVolumeThatCannotGrowMounted(t *testing.T) {
	nearly := dataset.Usage{Used: 18 * dataset.GiB, Available: 2 * dataset.GiB}
	can := dataset.Capabilities{EnforcesSize: true, OnlineGrow: true, OfflineGrow: []string{"ext4"}}
	never := dataset.Capabilities{EnforcesSize: true}
	mounted := &dataset.DatasetStatus{Mounted: true}
	for name, c := range map[string]struct {
		filesystem string
		can        dataset.Capabilities
		st         *dataset.DatasetStatus
		blocked    bool
	}{
		"mounted ext4":       {"ext4", can, mounted, true},
		"idle ext4":          {"ext4", can, &dataset.DatasetStatus{}, false},
		"unknown status":     {"ext4", can, nil, false},
		"mounted xfs":        {"xfs", can, mounted, false},
		"never online":       {"xfs", never, mounted, true},
		"unknown pool":       {"ext4", dataset.Capabilities{}, mounted, false},
		"no filesystem":      {"", can, mounted, false},
		"only uses":          {"ext4", can, &dataset.DatasetStatus{Mounts: make([]dataset.Mount, 1)}, true},
		"grows while in use": {"ext4", dataset.Capabilities{EnforcesSize: true, OnlineGrow: true}, mounted, false},
	} {
		d := dataset.Dataset{Volume: "db", Size: 20 * dataset.GiB}
		d.Profile.Filesystem.Type = c.filesystem
		in := d.RoomIn("fast", c.can, nil, c.st)
		commands, hint := d.SpaceCommands(in, nearly), d.SpaceHint(in, nearly)
		want, wantHint := []string{d.GrowCommand()}, d.GrowCommand()
		if c.blocked {
			why := c.filesystem + " cannot grow while mounted on its node"
			want = []string{"stop its containers: " + why, d.GrowCommand(), "start its containers again"}
			wantHint = "stop its containers (drover volume inspect db names them), run drover volume resize db 30GiB, and " +
				"start them again: " + why
		}
		if !slices.Equal(commands, want) || hint != wantHint {
			t.Errorf("%s: %q, %s", name, commands, hint)
		}
	}
}
