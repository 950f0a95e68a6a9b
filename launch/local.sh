# Sourced: Open MPI on this machine alone, with more ranks than cores, also as root, in containers
# and without ssh. Measured on two cores with four ranks: a 1 KiB all-gather takes 8 ms unless idle
# ranks yield; ranks that are bound see one core each.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_plm=isolated OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl=self,vader                             # Ranks of one machine share memory,
export OMPI_MCA_btl_vader_single_copy_mechanism=none       # and many containers forbid ptrace.
export OMPI_MCA_mca_base_component_show_load_errors=0 PMIX_MCA_pcompress_base_silence_warning=1
# The same in the words of Open MPI 5, whose launcher is PRRTE.
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export PRTE_MCA_hwloc_default_binding_policy=none OMPI_MCA_prte_silence_shared_fs=1
export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
