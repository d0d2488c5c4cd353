// Package settings reads the configuration and the profiles of this host without a server, and has the commands of
// drover profile. ReferencePages are the man pages of the keys. The package keeps no state.
package settings
