package wire

import (
	"fmt"
	"strings"
)

// agentName is the product name of this module's programs in the headers User-Agent and Server. The version follows
// it (RFC 9110, section 10.1.5).
const agentName = "drover/"

// VersionIn returns the version in a User-Agent or Server header, or "" if another program wrote the header.
func VersionIn(header string) string {
	product, _, _ := strings.Cut(header, " ")
	version, ok := strings.CutPrefix(product, agentName)
	if !ok {
		return ""
	}
	return version
}

// ProductName returns the value of User-Agent or Server for a version of this program, or "" if the version is empty.
func ProductName(version string) string {
	if version == "" {
		return ""
	}
	return fmt.Sprint(agentName, version)
}
