package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/dataset"
)

// ParseLabelChange parses arguments that change labels, in the form of kubectl label: KEY=VALUE sets a label, and KEY-
// removes it. A wrong argument, and a key that is named twice, is a usage error.
func ParseLabelChange(cmd *cobra.Command, args []string) (c dataset.LabelChange, err error) {
	c.Set = map[string]string{}
	named := map[string]bool{}
	for _, arg := range args {
		key, value, sets := strings.Cut(arg, "=")
		if !sets {
			var removes bool
			if key, removes = strings.CutSuffix(arg, "-"); !removes {
				return c, UsageError(cmd, "bad label %q: expected KEY=VALUE to set a label, or KEY- to remove one",
					dataset.Clip(arg))
			}
		}
		if err := dataset.CheckLabel(key); err != nil {
			return c, UsageError(cmd, "%w", err)
		}
		if named[key] {
			return c, UsageError(cmd, "label %s is named twice", key)
		}
		named[key] = true
		if sets {
			c.Set[key] = value
		} else {
			c.Remove = append(c.Remove, key)
		}
	}
	return c, nil
}
